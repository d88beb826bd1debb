"""A pickle reader that builds inert values only: nothing named in the file is ever imported or called.

Classes and functions become inert classes that remember their name and arguments, so that a `Namespace`, a numpy scalar or a
whole `nn.Module` can be read for the tensors within. Time and memory are bounded by the pickle's length, whatever it asks for.
"""

from __future__ import annotations

import io
import pickle
from collections import OrderedDict
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from rna_watch.errors import RefusedCheckpoint, RnaWatchError
from rna_watch.formats.bounded_unpickler import BoundedUnpickler

if TYPE_CHECKING:
    from collections.abc import Callable

    from rna_watch.formats.bounded_unpickler import Stream

MOST_CLASSES = 10_000


class Inert:
    """An object of a class that is not run: its arguments, items and state, and nothing else."""

    qualified_name = ""

    def __init__(self, *args: object, **kwargs: object) -> None:
        self.args = args
        self.kwargs = kwargs
        self.items: list[object] = []
        self.state: object = None

    def __new__(cls, *_args: object, **_kwargs: object) -> Inert:
        """Any arguments are taken; a class that was looked up within another (`getattr`) is no type here."""
        return super().__new__(cls if isinstance(cls, type) else Inert)

    def __call__(self, *args: object, **kwargs: object) -> Inert:
        """What a function or class that was looked up within another would have made."""
        return Inert(*args, **kwargs)

    def __setitem__(self, key: object, value: object) -> None:
        self.__dict__.setdefault("items", []).append((key, value))

    def append(self, value: object) -> None:
        """Keep an element."""
        self.__dict__.setdefault("items", []).append(value)

    def extend(self, values: list[object]) -> None:
        """Keep elements."""
        self.__dict__.setdefault("items", []).extend(values)

    add = append


class InertDict(dict[Any, Any]):
    """A mapping of a class that is not run (a defaultdict, a Counter): its items without its behaviour."""

    def __init__(self, *args: object) -> None:
        super().__init__(next((arg for arg in args if isinstance(arg, dict)), {}))


@dataclass(frozen=True, slots=True)
class StorageType:
    """A storage class named in the file: its dtype ("" for untyped bytes)."""

    dtype: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Storage:
    """A reference to a storage: the record that holds it, its dtype ("" for bytes), and its length in elements of that.

    `start` is the element at which a view of it begins, and `count` that at which the view ends (torch < 0.4 had views).
    """

    key: str
    dtype: str
    count: int
    start: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class PickledTensor:
    """A tensor as the pickle describes it; `pairs`: its complex numbers are described as real ones with a last axis of two."""

    storage: Storage
    dtype: str
    start: int
    shape: tuple[int, ...]
    stride: tuple[int, ...]
    pairs: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class OpaqueTensor:
    """A tensor that is no plain strided array (quantized, sparse, a subclass), and what it is."""

    what: str


@dataclass(frozen=True, slots=True, kw_only=True)
class DistributedTensor(OpaqueTensor):
    """A rank's block of a tensor of this shape that lies on several (DTensor), and how it lies there; alone it is no tensor."""

    local: PickledTensor
    shape: tuple[int, ...]
    spec: Inert


STORAGES = {
    "DoubleStorage": "float64",
    "FloatStorage": "float32",
    "HalfStorage": "float16",
    "BFloat16Storage": "bfloat16",
    "LongStorage": "int64",
    "IntStorage": "int32",
    "ShortStorage": "int16",
    "CharStorage": "int8",
    "ByteStorage": "uint8",
    "BoolStorage": "bool",
    "ComplexFloatStorage": "complex64",
    "ComplexDoubleStorage": "complex128",
    "QInt8Storage": "qint8",
    "QUInt8Storage": "quint8",
    "QInt32Storage": "qint32",
    "QUInt4x2Storage": "quint4x2",
    "QUInt2x4Storage": "quint2x4",
    "UntypedStorage": "",
}
_MAPPINGS = {("collections", "defaultdict"), ("collections", "Counter")}
_MOST_ELEMENTS = 2**63
_MOST_AXES = 64  # torch's own limit; without one, a shape given a million times fills memory


def _tensor(storage: object, start: int, shape: Any, stride: Any, dtype: str | None = None) -> object:
    if not isinstance(storage, Storage):
        return OpaqueTensor(what="a tensor without a storage of its own")
    if max(len(shape), len(stride)) > _MOST_AXES or start < 0:
        raise ValueError("a tensor with a negative start or more axes than torch has")
    if len(shape) != len(stride):
        raise ValueError("a tensor with a shape and a stride of different lengths")
    if any(type(each) is not int or abs(each) >= _MOST_ELEMENTS for each in (start, *shape, *stride)):
        raise ValueError("a tensor whose start, sizes or strides are no whole numbers of elements")
    return PickledTensor(
        storage=storage,
        dtype=storage.dtype if dtype is None else dtype,
        start=storage.start + start,
        shape=tuple(shape),
        stride=tuple(stride),
    )


def _tensor_v2(storage: object, start: int, shape: Any, stride: Any, *rest: object) -> object:
    if rest[2:] and rest[2]:  # conjugation or negation that is put off until the values are used
        return OpaqueTensor(what="a view that conjugates or negates (resolve_conj() makes it plain)")
    return _tensor(storage, start, shape, stride)


def _tensor_v3(
    storage: object, start: int, shape: Any, stride: Any, _grad: object, _hooks: object, dtype: Any, *_rest: object
) -> object:
    return _tensor(storage, start, shape, stride, str(getattr(dtype, "qualified_name", "")).removeprefix("torch."))


def _tensor_of_type(build: Any, kind: Any, arguments: Any, *state: object) -> object:
    """A tensor with attributes of its own; a true subclass may mean something else by its data."""
    name = getattr(kind, "qualified_name", "")
    if name in {"torch.Tensor", "torch.nn.parameter.Buffer"}:
        return build(*arguments)
    if name.startswith("torch.distributed.") and name.endswith(".DTensor"):
        return _distributed(arguments, *state)
    return OpaqueTensor(what="a tensor subclass")


def _distributed(arguments: Any, state: Any = None, *_rest: object) -> OpaqueTensor:
    """A DTensor, whose attributes are slots: its state is a pair of which the second has them."""
    what = "one rank's part of a distributed tensor (DTensor)"
    slots = state[1] if isinstance(state, tuple) and len(state) == 2 else state
    local, spec = (dict.get(slots, key) if isinstance(slots, dict) else None for key in ("_local_tensor", "_spec"))
    shape = arguments[2] if isinstance(arguments, tuple) and len(arguments) > 2 else None
    if not isinstance(shape, tuple) or len(shape) > _MOST_AXES:
        return OpaqueTensor(what=what)
    if any(type(each) is not int or not 0 <= each < _MOST_ELEMENTS for each in shape):
        return OpaqueTensor(what=what)
    if not isinstance(local, PickledTensor) or not isinstance(spec, Inert) or len(local.shape) != len(shape):
        return OpaqueTensor(what=what)
    return DistributedTensor(what=what, local=local, shape=tuple(shape), spec=spec)


def _first(value: object, *_rest: object) -> object:
    return value


def _opaque(what: str) -> Callable[..., OpaqueTensor]:
    def build(*_args: object) -> OpaqueTensor:
        return OpaqueTensor(what=what)

    return build


_REBUILD: dict[tuple[str, str], Callable[..., object]] = {
    ("torch._utils", "_rebuild_tensor"): _tensor_v2,
    ("torch._utils", "_rebuild_tensor_v2"): _tensor_v2,
    ("torch._utils", "_rebuild_tensor_v3"): _tensor_v3,
    ("torch._utils", "_rebuild_parameter"): _first,
    ("torch._utils", "_rebuild_parameter_with_state"): _first,
    ("torch._utils", "_rebuild_qtensor"): _opaque("a quantized tensor"),
    ("torch._utils", "_rebuild_sparse_tensor"): _opaque("a sparse tensor"),
    ("torch._utils", "_rebuild_sparse_csr_tensor"): _opaque("a sparse tensor"),
    ("torch._utils", "_rebuild_nested_tensor"): _opaque("a nested tensor"),
    ("torch._utils", "_rebuild_meta_tensor_no_storage"): _opaque("a tensor without data (meta)"),
    ("torch._utils", "_rebuild_wrapper_subclass"): _opaque("a tensor subclass"),
    ("torch._tensor", "_rebuild_from_type_v2"): _tensor_of_type,
}


def _name_of(key: object) -> str:
    if not isinstance(key, str | int):
        raise TypeError("the key of a storage is no name")
    return str(key)


class _Reader(BoundedUnpickler):
    """Builds inert values only."""

    dispatch: ClassVar[dict[int, Callable[[Any], None]]] = dict(BoundedUnpickler.dispatch)

    def __init__(self, stream: Stream, refer: Callable[[Any], object]) -> None:
        super().__init__(stream)
        self._refer = refer
        self._classes: dict[tuple[str, str], Any] = {}

    def load_build(self) -> None:
        """Set the state of an inert object, and a state dict's metadata; a state for any other object is an attack."""
        state = self.stack.pop()
        target = self.stack[-1]
        if isinstance(target, Inert):
            vars(target)["state"] = state
        elif type(target) is OrderedDict:
            if isinstance(state, dict) and isinstance(dict.get(state, "_metadata"), dict):
                vars(target)["_metadata"] = dict.get(state, "_metadata")
        elif not isinstance(target, dict):
            raise TypeError(f"a {type(target).__name__} is given a state")

    dispatch[pickle.BUILD[0]] = load_build

    def find_class(self, module: str, name: str) -> Any:
        found = self._classes.get((module, name))
        if found is None:
            if len(self._classes) >= MOST_CLASSES:
                raise RefusedCheckpoint(f"its pickle names more than {MOST_CLASSES:,} classes")
            found = self._classes[module, name] = _class(module, name)
        return found

    def persistent_load(self, pid: Any) -> Any:
        return self._refer(pid)


def _class(module: str, name: str) -> Any:
    """What stands here for a class or a function."""
    if (module, name) in _REBUILD:
        return _REBUILD[module, name]
    if (module, name) == ("collections", "OrderedDict"):
        return OrderedDict
    if (module, name) in _MAPPINGS:
        return type(name, (InertDict,), {})
    if (module, name) == ("torch", "Size"):
        return tuple
    if module in {"torch", "torch.storage"} and name in STORAGES:
        return StorageType(STORAGES[name])
    return type(name, (Inert,), {"qualified_name": f"{module}.{name}"})


def _record(pid: Any) -> Storage | OpaqueTensor:
    """What a persistent id in a zip file refers to."""
    match pid:
        case ("storage", StorageType(dtype=dtype), key, _location, count) if isinstance(count, int):
            return Storage(key=_name_of(key), dtype=dtype, count=count)
        case _:
            return OpaqueTensor(what="a reference of an unknown kind")


def load(data: bytes) -> object:
    """The tree of values in a torch pickle, tensors as `PickledTensor`.

    Raises:
        ValueError: the bytes are not a pickle that can be read.
    """
    return read(io.BytesIO(data), _record)


def read(stream: Stream, refer: Callable[[Any], object]) -> object:
    """The tree of values in the next pickle of a stream, which is read no further than the pickle goes.

    Args:
        stream: an error of ours that it raises is passed on.
        refer: returns what a persistent id stands for.

    Raises:
        ValueError: what is there is not a pickle that can be read.
    """
    try:
        return _Reader(stream, refer).load()
    except RnaWatchError:
        raise
    except MemoryError as error:
        raise ValueError("the pickle asks for more memory than there is") from error
    except Exception as error:
        raise ValueError(f"the pickle is damaged ({type(error).__name__}: {error})") from error
