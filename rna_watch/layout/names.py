"""Names of tensors without what wrappers put into them: data parallelism, compilation, activation checkpointing, averaging.

A run that is restarted under another wrapper has other names for the same tensors. A network may have a submodule of its own
that is called `module`: a prefix is a wrapper's only if every name begins with it.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence

# torch.nn.parallel.DistributedDataParallel, torch.optim.swa_utils.AveragedModel; torch.compile
FRONT = ("module.", "_orig_mod.")
# torch.distributed.fsdp, torch...checkpoint_wrapper: no submodule of a network has such a name, and they stand anywhere in a name
_INNER = re.compile(r"(?<![^.])(?:_fsdp_wrapped_module|_checkpoint_wrapped_module)\.")
_COMPILED = re.compile(r"(?<![^.])_orig_mod\.")
_COUNTER = "n_averaged"  # AveragedModel's own, next to its `module.`


def spellings(names: Iterable[str]) -> Iterator[dict[str, str]]:
    """Each stored name's spelling, without inner wrappers, then with one shared prefix less at a time; names stay apart."""
    current = _apart({name: name for name in names}, _INNER)
    yield current
    while current := _less(current):
        yield current


def _less(current: dict[str, str]) -> dict[str, str]:
    own = [spelled for spelled in current.values() if spelled != _COUNTER]
    for prefix in FRONT:
        if own and all(spelled.startswith(prefix) for spelled in own) and prefix + _COUNTER not in own:
            return {name: spelled.removeprefix(prefix) for name, spelled in current.items()}
    return {}


def _apart(current: dict[str, str], pattern: re.Pattern[str]) -> dict[str, str]:
    """The spellings without a pattern; with it, if two names would become one."""
    shorter = {name: pattern.sub("", spelled) for name, spelled in current.items()}
    return shorter if len(set(shorter.values())) == len(shorter) else current


def plain_names(names: Iterable[str]) -> dict[str, str]:
    """The key that the bare model uses, by stored name; without the counter of an averaged model, which is no part of it."""
    *before, plain = spellings(names)
    if before and plain.get(_COUNTER) == _COUNTER:
        del plain[_COUNTER]
    return plain


def canonical_names(names: Iterable[str]) -> dict[str, str]:
    """The name by which a tensor is known across a window, by stored name: equal whatever wrapped the model, and unique."""
    *_, plain = spellings(names)
    return _apart(plain, _COMPILED)


def by_part(
    naming: Callable[[Iterable[str]], dict[str, str]], names: Iterable[str], parts: Sequence[str]
) -> dict[str, str]:
    """Names given to the tensors of several networks, each network by itself: one may be wrapped and another not.

    Args:
        naming: `plain_names` or `canonical_names`.
        names: the stored names, each behind the prefix of its network and a dot.
        parts: the prefixes of the networks; none: the names are those of one network.
    """
    names = list(names)
    if not parts:
        return naming(names)
    found: dict[str, str] = {}
    for part in parts:
        front = f"{part}."
        own = naming(name.removeprefix(front) for name in names if name.startswith(front))
        found |= {front + name: front + given for name, given in own.items()}
    return {name: found[name] for name in names if name in found}
