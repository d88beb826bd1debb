"""Which part of a checkpoint is the model: its key path, its tensors by role, and the step counters beside it."""

from __future__ import annotations

import re
from typing import Any, TypeGuard

from rna_watch.checkpoints.extents import Role
from rna_watch.checkpoints.numeric import DTYPES
from rna_watch.checkpoints.safe_pickle import OpaqueTensor, PickledTensor
from rna_watch.errors import RefusedCheckpoint

MODEL_KEYS = (
    "state_dict",
    "model",
    "model_state_dict",
    "net",
    "network",
    "module",
    "model_state",
    "params",
    "weights",
    "net_state_dict",
    "model_state_dicts",
)
NOT_MODELS = re.compile(
    r"optim|sched|scaler|ema|rng|averag|grad|loss|metric|hist|callback|loops|args|config|hyper", re.IGNORECASE
)
STEP_KEYS = ("global_step", "step", "iteration", "iter", "iter_num", "it", "steps", "global_iter", "num_updates")
EPOCH_KEYS = ("epoch", "epochs", "current_epoch")
WRAPPER_PREFIXES = ("module.", "_orig_mod.")
_VARIANCE = re.compile(r"(^|\.)running_var$")
_STATISTIC = re.compile(r"(^|\.)running_mean$")
_MAX_DEPTH = 6


def role(name: str, dtype: str) -> Role:
    """What a tensor is to the extrapolation, by its name and dtype (facts: normalization statistics go by name)."""
    if not DTYPES[dtype].linear:
        return Role.COPIED
    if _VARIANCE.search(name):
        return Role.VARIANCE
    if _STATISTIC.search(name):
        return Role.STATISTIC
    return Role.PARAMETER


def plain_name(name: str) -> str:
    """The key that the bare model uses: wrapper prefixes (DDP, torch.compile) taken off the front."""
    for prefix in WRAPPER_PREFIXES * 2:
        name = name.removeprefix(prefix)
    return name


def find_model(tree: object, source: str | None = None) -> tuple[str, dict[str, PickledTensor]]:
    """The model's tensors and the key path where they are ("" at the top).

    Raises:
        RefusedCheckpoint: there is none, there are several, or it holds tensors that cannot be combined.
    """
    groups = _tensor_groups(tree)
    if not groups:
        raise RefusedCheckpoint(
            "it holds no named tensors; a state dict, bare or under a key such as 'state_dict', is needed"
        )
    path = _choose(groups, source)
    tensors: dict[str, PickledTensor] = {}
    for name, tensor in groups[path].items():
        if isinstance(tensor, OpaqueTensor):
            raise RefusedCheckpoint(
                f"{name} is {tensor.what}, which cannot be averaged; save the model with plain tensors"
            )
        if tensor.dtype not in DTYPES:
            raise RefusedCheckpoint(
                f"{name} has dtype {tensor.dtype}, which cannot be averaged; save it as float32 or bfloat16"
            )
        tensors[name] = tensor
    if not any(DTYPES[tensor.dtype].linear for tensor in tensors.values()):
        raise RefusedCheckpoint(f"'{path or 'the file'}' holds no floating-point tensors: nothing to extrapolate")
    return path, tensors


def counters(tree: object) -> dict[str, int]:
    """The `step` and `epoch` written inside a checkpoint, where there are any."""
    found: dict[str, int] = {}
    if not isinstance(tree, dict):
        return found
    for kind, keys in (("step", STEP_KEYS), ("epoch", EPOCH_KEYS)):
        for key in keys:
            value = dict.get(tree, key)
            if isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 2**63:
                found[kind] = value
                break
    return found


def _is_tensor(value: object) -> TypeGuard[PickledTensor | OpaqueTensor]:
    return isinstance(value, PickledTensor | OpaqueTensor)


def _tensor_groups(tree: object) -> dict[str, dict[str, PickledTensor | OpaqueTensor]]:
    """Every mapping that holds tensors, by its key path; a mapping of mappings of tensors is one group of dotted names."""
    groups: dict[str, dict[str, PickledTensor | OpaqueTensor]] = {}
    seen: set[int] = set()

    def visit(value: Any, path: str, depth: int) -> None:
        if not isinstance(value, dict) or id(value) in seen or depth > _MAX_DEPTH:
            return
        seen.add(id(value))
        own: dict[str, PickledTensor | OpaqueTensor] = {
            key: item for key, item in dict.items(value) if isinstance(key, str) and _is_tensor(item)
        }
        if own:
            groups[path] = own
            for key, item in dict.items(value):
                if isinstance(key, str) and isinstance(item, dict):
                    _flatten(item, f"{key}.", own, seen, depth)
            return
        for key, item in dict.items(value):
            if isinstance(key, str):
                visit(item, f"{path}.{key}" if path else key, depth + 1)

    if isinstance(tree, dict) and any(key in tree for key in MODEL_KEYS if isinstance(dict.get(tree, key), dict)):
        # a tensor beside the model (a loss, a random state) does not make the whole file the model
        for key, item in dict.items(tree):
            if key in MODEL_KEYS and isinstance(item, dict):
                own: dict[str, PickledTensor | OpaqueTensor] = {}
                _flatten(item, "", own, seen, 1)
                if own:
                    groups[key] = own
            elif isinstance(key, str):
                visit(item, key, 1)
    else:
        visit(tree, "", 0)
    return groups


def _flatten(
    value: dict[Any, Any], prefix: str, into: dict[str, PickledTensor | OpaqueTensor], seen: set[int], depth: int
) -> None:
    if id(value) in seen or depth > _MAX_DEPTH:
        return
    seen.add(id(value))
    for key, item in dict.items(value):
        if isinstance(key, str) and _is_tensor(item):
            into[prefix + key] = item
        elif isinstance(key, str) and isinstance(item, dict):
            _flatten(item, f"{prefix}{key}.", into, seen, depth + 1)


def _choose(groups: dict[str, Any], source: str | None) -> str:
    if source is not None:
        if source not in groups:
            raise RefusedCheckpoint(
                f"there are no tensors under '{source}'; there are some under: {', '.join(map(repr, groups))}"
            )
        return source
    if len(groups) == 1:
        return next(iter(groups))
    for key in MODEL_KEYS:
        if key in groups:
            return key
    likely = [path for path in groups if not NOT_MODELS.search(path)]
    if len(likely) == 1:
        return likely[0]
    raise RefusedCheckpoint(
        f"it holds several groups of tensors ({', '.join(map(repr, groups))}); name the model's with --source KEY"
    )
