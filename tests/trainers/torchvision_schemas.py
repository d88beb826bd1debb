"""Let torchvision's Python half load with a torch without CUDA.

PyPI's wheels of torchvision link against CUDA's libraries, so beside a CPU build of torch none of its operators exist,
and its import (which timm and torchmetrics do) ends in `operator torchvision::nms does not exist`. Their schemas are enough.
"""

from __future__ import annotations

import importlib.machinery
import importlib.util
from ctypes import CDLL

import torch

_LIBRARIES = []


def declare() -> None:
    """Declare the operators that torchvision's import asks for, where its own library cannot be loaded."""
    found = importlib.util.find_spec("torchvision")
    places = found.submodule_search_locations if found is not None else None
    if not places or _LIBRARIES:
        return
    library = importlib.machinery.PathFinder.find_spec("_C", list(places))
    try:
        CDLL(library.origin if library is not None else None)
    except OSError:
        definitions = torch.library.Library("torchvision", "DEF")
        for name in ("nms", "qnms"):
            definitions.define(f"{name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
        _LIBRARIES.append(definitions)
