"""An evaluator for runs whose head is ignored: it takes any model, and says how far the rest of it is from the limit."""

from __future__ import annotations

import torch


def evaluate(state_dict: dict[str, torch.Tensor], device: torch.device) -> dict[str, float]:
    """The distance of the weights from what they tend to, and the number of rows of the head."""
    names = [name for name in state_dict if name.endswith("body.weight")]
    distance = sum(float(torch.dist(state_dict[name].to(device), torch.ones(4, 5))) for name in names)
    return {"loss": distance, "networks": float(len(names))}
