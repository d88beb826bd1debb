"""Which part of a checkpoint is the model: its key path, its tensors by role, and the step counters next to it.

A moving average of the weights is a source of its own, the model only if it is named or stands alone: residuals are those of
the iterates, and an average smooths them away. Every other source stays as it is in the newest checkpoint, so that a program
that loads the average by itself (Lightning's `load_from_checkpoint` after WeightAveraging, timm's `use_ema`) does not see
the extrapolation: name that source to extrapolate it instead.
"""

from __future__ import annotations

import re
import shlex
from dataclasses import replace
from math import prod
from typing import TYPE_CHECKING, Any, TypeGuard

import numpy as np

from rna_watch.errors import RefusedCheckpoint
from rna_watch.formats import pickled_module
from rna_watch.formats.safe_pickle import Inert, OpaqueTensor, PickledTensor
from rna_watch.layout.dtypes import DTYPES, PAIRS
from rna_watch.layout.layout import Role, Source

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence

    TensorGroup = dict[str, PickledTensor | OpaqueTensor]

MODEL_KEYS = (
    *("state_dict", "model", "model_state_dict", "net", "network", "module"),
    *("model_state", "params", "weights", "net_state_dict", "model_state_dicts"),
)
# Lightning's WeightAveraging keeps the raw weights here, and puts their average where the model was
RAW_BESIDE_AVERAGE = ("current_model_state", "state_dict")
NOT_MODELS = re.compile(
    r"optim|sched|scaler|rng|grad|loss|metric|hist|callback|loops|args|config|hyper|averaging_state", re.IGNORECASE
)
# as a word: "semantic" and "schema" are no averages
_AVERAGES = re.compile(r"(?i:(?<![a-z])(?:ema|swa|avg|shadow)(?![a-z])|averag)|(?<=[a-z])(?:EMA|SWA)(?![a-z])")
STEP_KEYS = (
    *("global_step", "step", "iteration", "iter", "iter_num", "it", "steps", "global_iter", "num_updates"),
    *("global_steps", "ss_steps", "current_step", "current_iter"),  # ss: kohya's scripts
)
EPOCH_KEYS = ("epoch", "epochs", "current_epoch", "ss_epoch")
_VARIANCE = re.compile(r"(^|\.)running_var$")
_STATISTIC = re.compile(r"(^|\.)running_mean$")
# torch's `Module.get_extra_state`; states of metrics (what a metric learns is a parameter)
_STATE = re.compile(
    r"(^|\.)_extra_state(\.|$)|(^|[._])metrics?\.(?!(.*\.)?(weight|bias|W|proxies|centers|prototypes)$)"
)
_WEIGHTS = re.compile(r"(^|\.)(weight|qweight|weight_packed)$")
_FEW = 0.01  # of the model's floating-point values
_MAX_DEPTH = 64
MOST_ENTRIES = 4_000_000  # of mappings, each as often as it is reached; a mapping counts as 12
_A_MAPPING = 12
MOST_NAME_CHARACTERS = 4096  # keys and all that they stand under
_SHOWN = 8
_BYTES = "_codecs.encode"  # how old pickle protocols write bytes: as text, in Latin-1


def role(name: str, dtype: str) -> Role:
    """What a tensor is to the extrapolation, by its name and dtype (facts: normalization statistics go by name)."""
    if not DTYPES[dtype].linear or _STATE.search(name):
        return Role.COPIED
    if _VARIANCE.search(name):
        return Role.VARIANCE
    if _STATISTIC.search(name):
        return Role.STATISTIC
    return Role.PARAMETER


def as_pairs(tensor: PickledTensor) -> PickledTensor:
    """A complex tensor as `torch.view_as_real` shows it; any other as it is."""
    if tensor.dtype not in PAIRS:
        return tensor
    return replace(
        tensor,
        dtype=PAIRS[tensor.dtype],
        start=2 * tensor.start,
        shape=(*tensor.shape, 2),
        stride=(*(2 * step for step in tensor.stride), 1),
        pairs=True,
    )


def find_model(tree: object, source: str | None = None) -> tuple[str, tuple[str, ...], dict[str, PickledTensor]]:
    """The key path of the model ("" at the top), its parts if it is several networks, and its tensors.

    Names of the tensors of several networks begin with the key path of their network.

    Args:
        tree: what the checkpoint holds.
        source: the key path, or several with commas; found if None.

    Raises:
        RefusedCheckpoint: there is none, there are several, or it holds tensors that cannot be combined.
    """
    tree = pickled_module.as_state_dicts(tree)
    groups = _tensor_groups(tree)
    likely = [path for path in groups if not NOT_MODELS.search(path)] or list(groups)
    wanted = [] if source is None else [source]
    if source is not None and not _known(groups, tree, source) and "," in source:
        wanted = [part.strip() for part in source.split(",")]
        for part in wanted:
            _known(groups, tree, part)
    if not groups:
        raise RefusedCheckpoint(
            "it holds no named tensors; a state dict, bare or under a key such as 'state_dict', is needed"
        )
    paths = _choose(groups, wanted, likely)
    path, parts = ",".join(paths), tuple(paths) if len(paths) > 1 else ()
    tensors: dict[str, PickledTensor] = {}
    members = [(f"{part}.{name}", each) for part in parts for name, each in groups[part].items()]
    for name, tensor in members or groups[path].items():
        if isinstance(tensor, OpaqueTensor):
            raise RefusedCheckpoint(
                f"{name} is {tensor.what}, which cannot be averaged; save the model with plain tensors"
            )
        plain = as_pairs(tensor)
        if plain.dtype not in DTYPES:
            raise _not_linear(name, tensor.dtype)
        tensors[name] = plain
    check_dtypes((name, tensor.dtype, tensor.shape) for name, tensor in tensors.items())
    if not any(DTYPES[tensor.dtype].linear for tensor in tensors.values()):
        raise RefusedCheckpoint(f"'{path or 'the file'}' holds no floating-point tensors: nothing to extrapolate")
    return path, parts, tensors


def check_dtypes(tensors: Iterable[tuple[str, str, tuple[int, ...]]]) -> None:
    """Refuse models whose weights are stored as what cannot be averaged; other integers and eight-bit floats are copied.

    Integers are weights (quantized) where they are named so and have two axes or more; eight-bit floats also where they
    are more than a hundredth of the model's floating-point values.

    Args:
        tensors: names, dtypes and shapes.

    Raises:
        RefusedCheckpoint: they are.
    """
    small: dict[str, str] = {}
    counts = [0, 0]  # eight bits, more
    for name, dtype, shape in tensors:
        if dtype.startswith("float8"):
            small[name] = dtype
            counts[0] += prod(shape)
        elif DTYPES[dtype].linear:
            counts[1] += prod(shape)
            continue
        if _WEIGHTS.search(name) and len(shape) > 1 and dtype != "bool":
            raise _not_linear(name, dtype)
    if small and counts[0] > _FEW * counts[1]:
        name = next(iter(small))
        raise _not_linear(name, small[name])


def _not_linear(name: str, dtype: str) -> RefusedCheckpoint:
    return RefusedCheckpoint(f"{name} has dtype {dtype}, which cannot be averaged; save it as float32 or bfloat16")


def sources(tree: object) -> tuple[Source, ...]:
    """All groups of tensors in a checkpoint's tree that may be taken as the model, in its order."""
    groups = _tensor_groups(pickled_module.as_state_dicts(tree))
    return tuple(
        Source(path=path, tensors=len(group), averaged=_averaged(path, groups))
        for path, group in groups.items()
        if not NOT_MODELS.search(path)
        and any(isinstance(tensor, OpaqueTensor) or linear(tensor.dtype) for tensor in group.values())
    )


def linear(dtype: str) -> bool:
    """Whether values of a dtype, complex ones too, may be added and scaled."""
    return dtype in PAIRS or (dtype in DTYPES and DTYPES[dtype].linear)


def is_average(key: str) -> bool:
    """Whether a key says that what is under it is a moving average of weights."""
    return bool(_AVERAGES.search(key))


def _averaged(path: str, groups: dict[str, TensorGroup]) -> bool:
    raw, averaged = RAW_BESIDE_AVERAGE
    return is_average(path) or (path == averaged and raw in groups)


def counters(tree: object, read: Callable[[PickledTensor], bytes | None] = lambda _: None) -> dict[str, int]:
    """The `step` and `epoch` written inside a checkpoint, where there are any: Python's, numpy's or torch's whole numbers.

    Args:
        tree: what the checkpoint holds.
        read: the bytes of a tensor with one element, None if they cannot be read.
    """
    found: dict[str, int] = {}
    if not isinstance(tree, dict):
        return found
    # Composer's clock
    clock = _mapping(_mapping(dict.get(tree, "state")).get("timestamp"))
    places = (("step", tree, STEP_KEYS), ("epoch", tree, EPOCH_KEYS), ("step", clock, ("batch",)))
    for kind, holder, keys in (*places, ("epoch", clock, ("epoch",))):
        for key in keys:
            value = _whole(dict.get(holder, key), read)
            if value is not None and 0 <= value < 2**63 and kind not in found:
                found[kind] = value
    return found


def _mapping(value: object) -> dict[Any, Any]:
    return value if isinstance(value, dict) else {}


def _whole(value: object, read: Callable[[PickledTensor], bytes | None]) -> int | None:
    """A whole number of Python's, numpy's or torch's; None if it is none."""
    if isinstance(value, bool):
        return None
    if isinstance(value, int):
        return value
    if isinstance(value, PickledTensor):
        known = value.dtype.startswith(("int", "uint")) and prod(value.shape) == 1
        return _decoded(DTYPES[value.dtype].bits.str, read(value)) if known and value.dtype in DTYPES else None
    if isinstance(value, Inert):
        name, arguments, state = (getattr(value, key, None) for key in ("qualified_name", "args", "state"))
        match arguments, state:
            case ((kind, data), _) if str(name).endswith("multiarray.scalar"):
                return _decoded(_numpy_dtype(kind), data)
            case _, (_, (), kind, _, data) if str(name).endswith("multiarray._reconstruct"):
                return _decoded(_numpy_dtype(kind), data)
    return None


def _numpy_dtype(kind: object) -> str:
    """The dtype of a pickled numpy value, such as "<i8"; "" if it is none."""
    match getattr(kind, "args", None), getattr(kind, "state", None):
        case (str(name), *_), (_, str(order), *_):
            return order + name
    return ""


def _decoded(dtype: str, data: object) -> int | None:
    """A whole number from its bytes."""
    if isinstance(data, Inert) and data.qualified_name == _BYTES and isinstance(vars(data).get("args"), tuple):
        text = data.args[0] if data.args else None
        try:
            data = text.encode("latin-1") if isinstance(text, str) else None
        except UnicodeEncodeError:
            return None
    if not (isinstance(data, bytes) and re.fullmatch(r"[<>|][iu][1248]", dtype) and len(data) == int(dtype[-1])):
        return None
    return int(np.frombuffer(data, dtype=dtype)[0])


def _is_tensor(value: object) -> TypeGuard[PickledTensor | OpaqueTensor]:
    return isinstance(value, PickledTensor | OpaqueTensor)


class _Walk:
    """A walk over a tree of mappings that may share parts, or hold themselves: each place is visited, within bounds.

    Raises:
        RefusedCheckpoint: there are more entries, or longer names, than any checkpoint has.
    """

    def __init__(self) -> None:
        self.groups: dict[str, TensorGroup] = {}
        self._above: set[int] = set()
        self._entries = 0

    def visit(self, value: dict[Any, Any], path: str) -> None:
        """Find the groups of tensors at and below a path: mappings of tensors, with all that is below them."""
        if len(self._above) >= _MAX_DEPTH:
            return
        if any(_is_tensor(item) for key, item in dict.items(value) if isinstance(key, str)):
            self.flatten(value, path)
            return
        for key, item in self._inner(value):
            self.visit(item, _checked(f"{path}.{key}" if path else key))

    def flatten(self, value: dict[Any, Any], path: str) -> None:
        """Take all tensors below a path as one group of dotted names; averages in mappings of their own stand apart."""
        own: TensorGroup = {}
        self._gather(value, "", path, own)
        if own:
            self.groups[path] = own

    def _gather(self, value: dict[Any, Any], prefix: str, path: str, into: TensorGroup) -> None:
        if len(self._above) >= _MAX_DEPTH:
            into[prefix.removesuffix(".")] = OpaqueTensor(what=f"a mapping nested more than {_MAX_DEPTH} deep")
            return
        for key, item in dict.items(value):
            if isinstance(key, str) and _is_tensor(item):
                into[_checked(prefix + key)] = item
        for key, item in self._inner(value):
            if is_average(key):
                self.visit(item, f"{path}.{prefix}{key}" if path else prefix + key)
            else:
                self._gather(item, _checked(f"{prefix}{key}."), path, into)

    def _inner(self, value: dict[Any, Any]) -> Iterator[tuple[str, dict[Any, Any]]]:
        """The mappings inside one, but for those that it is inside of itself."""
        self._entries += _A_MAPPING + len(value)
        if self._entries > MOST_ENTRIES:
            raise RefusedCheckpoint(
                f"its mappings have more than {MOST_ENTRIES:,} entries; save the model's state dict alone"
            )
        self._above.add(id(value))
        for key, item in dict.items(value):
            if isinstance(key, str) and isinstance(item, dict) and id(item) not in self._above:
                yield key, item
        self._above.discard(id(value))


def _checked(name: str) -> str:
    """Raises: RefusedCheckpoint: it is longer than any name: one part of it that many share would fill memory."""
    if len(name) > MOST_NAME_CHARACTERS:
        raise RefusedCheckpoint(f"a name in it is longer than {MOST_NAME_CHARACTERS:,} characters: it is damaged")
    return name


def _tensor_groups(tree: object) -> dict[str, TensorGroup]:
    """Every mapping that holds tensors, by its key path; a mapping of mappings of tensors is one group of dotted names."""
    walk = _Walk()
    if not isinstance(tree, dict):
        return {}
    if not any(isinstance(dict.get(tree, key), dict) for key in MODEL_KEYS):
        walk.visit(tree, "")
        return walk.groups
    # a tensor next to the model (a loss, a random state) does not make the whole file the model
    for key, item in dict.items(tree):
        if isinstance(key, str) and isinstance(item, dict) and item is not tree:
            if key in MODEL_KEYS:
                walk.flatten(item, key)
            else:
                walk.visit(item, key)
    return walk.groups


def _known(groups: dict[str, TensorGroup], tree: object, source: str) -> bool:
    """Whether there are tensors under a key path; they become a group of their own."""
    if source not in groups and (found := _under(tree, source)):
        groups[source] = found
    return source in groups


def _under(tree: object, source: str) -> TensorGroup:
    """The tensors below a dotted path of keys, which may have dots of their own."""
    waiting: list[tuple[object, str]] = [(tree, source)]
    while waiting:
        value, rest = waiting.pop()
        if not isinstance(value, dict):
            continue
        for key, item in dict.items(value):
            if key == rest and isinstance(item, dict):
                walk = _Walk()
                walk.flatten(item, source)
                if source in walk.groups:
                    return walk.groups[source]
            elif isinstance(key, str) and key and rest.startswith(f"{key}."):
                waiting.append((item, rest[len(key) + 1 :]))
    return {}


def _choose(groups: dict[str, TensorGroup], wanted: list[str], likely: list[str]) -> list[str]:
    """The key paths of the model: those that are wanted, or else the one among the likely ones."""
    for path in wanted:
        if path not in groups:
            raise RefusedCheckpoint(f"there are no tensors under '{path}'; there are some under: {_listed(likely)}")
        if wanted.count(path) > 1:
            raise RefusedCheckpoint(f"--source names '{path}' twice")
        if above := [each for each in wanted if path.startswith(f"{each}.")]:
            raise RefusedCheckpoint(f"'{path}' lies inside '{above[0]}': name one of them with --source")
    if wanted:
        return wanted
    if all(path in groups for path in RAW_BESIDE_AVERAGE):
        return [RAW_BESIDE_AVERAGE[0]]
    for key in MODEL_KEYS:
        if key in groups:
            return [key]
    raw = [path for path in likely if not is_average(path)] or likely
    named = [path for path in raw if path.rpartition(".")[2] in MODEL_KEYS]
    for found in (raw, named):
        if len(found) == 1:
            return found
    together = as_one(raw if len(raw) <= _SHOWN else raw[:2])
    more = f", or combine several networks together with --source {shlex.quote(together)}" if together else ""
    raise RefusedCheckpoint(
        f"it holds several groups of tensors ({_listed(likely)}); name the model's with --source KEY{more}"
    )


def as_one(paths: Sequence[str]) -> str:
    """Several key paths as the source that combines them; "" where they cannot be one."""
    apart = all("," not in path and path == path.strip() for path in paths)
    inside = any(path.startswith(f"{other}.") for path in paths for other in paths)
    return ",".join(paths) if apart and not inside and all(paths) and len(paths) > 1 else ""


def _listed(paths: list[str]) -> str:
    return ", ".join(map(repr, paths[:_SHOWN])) + (", ..." if len(paths) > _SHOWN else "")
