"""A whole `nn.Module` in a pickle: the state dict that it would return, read from its inert state without running it.

Parameters, then buffers that are persistent, then the children's, under dotted names, as `Module.state_dict` does. What a
class adds or renames by code of its own (hooks, extra state) is not seen.
"""

from __future__ import annotations

from typing import Any, TypeGuard

from rna_watch.errors import RefusedCheckpoint
from rna_watch.formats.safe_pickle import Inert, OpaqueTensor, PickledTensor

_MAX_DEPTH = 100
_MOST_MODULES = 2**18
_PARTS = ("_parameters", "_modules")


def as_state_dicts(tree: object) -> object:
    """A checkpoint's tree with each pickled module, at the top or under keys, replaced by its state dict.

    Raises:
        RefusedCheckpoint: a module holds itself.
    """
    done: dict[int, object] = {}

    def visit(value: Any, depth: int) -> object:
        if _is_module(value):
            if id(value) not in done:
                done[id(value)] = state_dict(value)
            return done[id(value)]
        if not isinstance(value, dict) or depth > _MAX_DEPTH:
            return value
        if id(value) not in done:
            done[id(value)] = value  # should it hold itself
            items = {key: visit(item, depth + 1) for key, item in dict.items(value)}
            if any(items[key] is not item for key, item in dict.items(value)):
                done[id(value)] = items
        return done[id(value)]

    return visit(tree, 0)


def state_dict(module: Inert) -> dict[str, PickledTensor | OpaqueTensor]:
    """The tensors of a pickled module by the names that its state dict would have.

    Raises:
        RefusedCheckpoint: it holds itself, or more modules than any model has.
    """
    found: dict[str, PickledTensor | OpaqueTensor] = {}
    waiting = [(module, "", 0)]
    visits = 0
    while waiting:
        part, prefix, depth = waiting.pop()
        visits += 1
        if depth > _MAX_DEPTH or visits > _MOST_MODULES:
            raise RefusedCheckpoint("the pickled model holds modules without end; save its state_dict instead")
        state = _state(part)
        passing = _names(state.get("_non_persistent_buffers_set"))
        for name, value in [*_entries(state, "_parameters"), *_entries(state, "_buffers")]:
            if value is not None and name not in passing:
                found[prefix + name] = _tensor(value)
        children = [(child, f"{prefix}{name}.", depth + 1) for name, child in _entries(state, "_modules")]
        waiting += [child for child in reversed(children) if _is_module(child[0])]
    return found


def _is_module(value: object) -> TypeGuard[Inert]:
    return isinstance(value, Inert) and all(isinstance(_state(value).get(part), dict) for part in _PARTS)


def _state(value: Inert) -> dict[Any, Any]:
    state = vars(value).get("state")
    return state if isinstance(state, dict) else {}


def _entries(state: dict[Any, Any], part: str) -> list[tuple[str, Any]]:
    entries = state.get(part)
    if not isinstance(entries, dict):
        return []
    return [(name, value) for name, value in dict.items(entries) if isinstance(name, str)]


def _names(value: object) -> set[str]:
    """A set of names, which old pickle protocols write as a call with a list."""
    if isinstance(value, Inert):
        value = next(iter(vars(value).get("args", ())), None)
    return {name for name in value if isinstance(name, str)} if isinstance(value, list | set | frozenset) else set()


def _tensor(value: object) -> PickledTensor | OpaqueTensor:
    if isinstance(value, PickledTensor | OpaqueTensor):
        return value
    return OpaqueTensor(what=f"an object of class {getattr(value, 'qualified_name', '') or type(value).__name__}")
