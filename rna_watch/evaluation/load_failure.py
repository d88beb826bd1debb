"""A failure of torch's `load_state_dict`, explained: which keys, why, and what to write."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

_SHOWN = 3
_TIED_SHOWN = 2


def explained(error: BaseException) -> str:
    """What went wrong in words, "" if the error is none of `load_state_dict`.

    The frame of the call tells the network, so that shapes and tensors that are one and the same are known.
    """
    inside: dict[str, Any] = {}
    trace = error.__traceback__
    while trace is not None:
        frame = trace.tb_frame
        if (
            frame.f_code.co_name == "load_state_dict"
            and {"self", "missing_keys", "error_msgs"} <= frame.f_locals.keys()
        ):
            inside = frame.f_locals
        trace = trace.tb_next
    if not inside.get("error_msgs"):
        return ""
    network = inside["self"].state_dict(keep_vars=True)
    return _words(
        type(inside["self"]).__name__, network, inside["state_dict"], inside["missing_keys"], inside["unexpected_keys"]
    )


def _words(
    kind: str, network: Mapping[str, Any], given: Mapping[str, Any], missing: list[str], unexpected: list[str]
) -> str:
    sizes = [
        f"{name} is {tuple(given[name].shape)} in the checkpoint and {tuple(tensor.shape)} in the network"
        for name, tensor in network.items()
        if name in given and getattr(tensor, "shape", None) != given[name].shape
    ]
    facts = [
        *([f"Missing keys, which the network has: {_some(missing)}"] if missing else []),
        *([f"Unexpected keys, which the checkpoint has: {_some(unexpected)}"] if unexpected else []),
        *([f"Other sizes: {_some(sizes)}"] if sizes else []),
    ]
    return (
        f"load_state_dict of {kind} failed. {'. '.join(facts)}. {_remedy(network, given, missing, unexpected, sizes)}"
    )


def _remedy(
    network: Mapping[str, Any], given: Mapping[str, Any], missing: list[str], unexpected: list[str], sizes: list[str]
) -> str:
    """Why, and what to write."""
    tied = {name: _same(network, given, name) for name in missing}
    if missing and not unexpected and not sizes and all(tied.values()):
        return _tied(tied)
    prefix = _prefix(missing, given)
    if prefix:
        return (
            f"The names in the checkpoint begin with {prefix!r}: your network is that part of what was trained. Write "
            f"network.load_state_dict({{name.removeprefix({prefix!r}): tensor for name, tensor in state_dict.items() "
            f"if name.startswith({prefix!r})}})"
        )
    prefix = _prefix(unexpected, network)
    if prefix:
        return (
            f"The names of the network begin with {prefix!r}: it wraps the one that was trained. Write "
            f"network.{prefix}load_state_dict(state_dict)"
        )
    if sizes and not missing and not unexpected:
        return "Build the network with the numbers of the training (classes, width, vocabulary), as its script does"
    if unexpected and not missing and not sizes:
        parts = sorted({name.partition(".")[0] for name in unexpected})
        own = {name.partition(".")[0] for name in network}
        if own.isdisjoint(parts):
            left = tuple(f"{part}." if f"{part}" not in unexpected else part for part in parts)
            return (
                f"If the network does not need {_some(parts)} to evaluate (a loss, a metric), write "
                "network.load_state_dict({name: tensor for name, tensor in state_dict.items() "
                f"if not name.startswith({left!r})}})"
            )
    fit = sum(name in given for name in network)
    return (
        f"{fit} of the network's {len(network)} names are in the checkpoint, which has {len(given)}: it is another network "
        "than the one that was trained. Build it as the training script does; `rna-watch inspect` lists the checkpoint's names"
    )


def _tied(tied: Mapping[str, str]) -> str:
    pairs = ", ".join(f"{name} is {other}" for name, other in tied.items())
    if len(tied) > _TIED_SHOWN:
        return (
            f"They are tied weights, stored once ({_some(f'{name} is {other}' for name, other in tied.items())}). Write "
            "network.load_state_dict(state_dict, strict=False), which sets both of each pair"
        )
    added = ", ".join(f"{name!r}: state_dict[{other!r}]" for name, other in tied.items())
    return (
        f"They are tied weights, stored once: in your network {pairs}. Write "
        f"network.load_state_dict(state_dict | {{{added}}})"
    )


def _same(network: Mapping[str, Any], given: Mapping[str, Any], name: str) -> str:
    """The name in the checkpoint of the tensor that is one and the same as another of the network ("" if none is)."""
    return next((other for other in given if other in network and network[other] is network.get(name)), "")


def _prefix(short: list[str], long: Mapping[str, Any]) -> str:
    """What the other side's names begin with, if the short ones are there behind it."""
    found = next((name[: -len(short[0])] for name in long if name.endswith(f".{short[0]}")), "") if short else ""
    return found if found and all(found + name in long for name in short) else ""


def _some(names: Iterable[str]) -> str:
    listed = list(names)
    more = f" and {len(listed) - _SHOWN} more" if len(listed) > _SHOWN else ""
    return ", ".join(listed[:_SHOWN]) + more
