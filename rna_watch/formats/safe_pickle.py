"""A pickle reader that builds inert values only: nothing named in the file is ever imported or called.

Classes and functions become inert classes that remember their name and arguments, so that a `Namespace`, a numpy scalar or a
whole `nn.Module` can be read for the tensors within. Time and memory are bounded by the pickle's length, whatever it asks for.
"""

from __future__ import annotations

import io
import pickle
import time
from collections import OrderedDict
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Protocol

from rna_watch.errors import RefusedCheckpoint, RnaWatchError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

# what a pickle may cost; of a model with 250,000 tensors it takes 55 MB, 3 values a tensor and 8 s
SECONDS = 1.0  # of the processor, and half a one more for each megabyte
MOST_VALUES = 1_000_000  # lists, mappings and objects, and as many memos; and one more for each 8 bytes
_A_VALUE_BYTES = 8
_VALUES_A_CALL = 4
MOST_OPEN = 10_000  # lists and tuples that are begun inside others
MOST_CLASSES = 10_000
_MOST_BITS = 128  # of a number that is a key
_LARGEST_MEMO = 2**32
_OPCODES_A_LOOK = 1024
_KEYS_A_LOOK = 64


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


def _tensor_of_type(build: Any, kind: Any, arguments: Any, *_state: object) -> object:
    """A tensor with attributes of its own; a true subclass may mean something else by its data."""
    plain = getattr(kind, "qualified_name", "") in {"torch.Tensor", "torch.nn.parameter.Buffer"}
    return build(*arguments) if plain else OpaqueTensor(what="a tensor subclass")


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


class Stream(Protocol):
    """What is read from: as many bytes as are asked for, and lines."""

    def read(self, count: int, /) -> bytes:
        """So many bytes."""

    def readline(self) -> bytes:
        """The bytes up to the end of the line, and that."""

    def tell(self) -> int:
        """The byte that comes next."""


# opcodes that torch.save never writes, and that reserve memory or reach objects beyond the file
_FOREIGN = (pickle.BYTEARRAY8, pickle.NEXT_BUFFER, pickle.READONLY_BUFFER, pickle.EXT1, pickle.EXT2, pickle.EXT4)
# opcodes that make a value of many more bytes than they take
_MAKING = (pickle.EMPTY_LIST, pickle.EMPTY_DICT, pickle.EMPTY_SET, pickle.TUPLE1, pickle.LIST)
_DEEPEST_KEY = 3
_WIDEST_KEY = 64


def _check_key(key: object, depth: int = _DEEPEST_KEY) -> None:
    """Raises: TypeError: a key of tuples within tuples: shared ones take time and memory without end to hash or print."""
    if isinstance(key, tuple | frozenset):
        if depth == 0 or len(key) > _WIDEST_KEY:
            raise TypeError("a key is nested deeper than any that torch writes")
        for item in key:
            _check_key(item, depth - 1)
    elif isinstance(key, int) and key.bit_length() > _MOST_BITS:
        raise TypeError("a key is a longer number than any that torch writes")


def _counted(read: Callable[[Any], None]) -> Callable[[Any], None]:
    """The reading of an opcode that makes a value."""

    def counted(reader: _Reader) -> None:
        reader.spend(1)
        read(reader)

    return counted


def _name_of(key: object) -> str:
    if not isinstance(key, str | int):
        raise TypeError("the key of a storage is no name")
    return str(key)


class _Reader(pickle._Unpickler):
    """Python's own reader in Python, with fewer opcodes.

    The one in C cannot be kept from giving states to our values, and fills memory up to a memo number that a damaged
    file makes up (measured: 4 GB and 18 s for a pickle of 9 bytes).
    """

    stack: list[Any]
    append: Callable[[Any], None]
    dispatch: ClassVar[dict[int, Callable[[Any], None]]] = {
        code: read for code, read in pickle._Unpickler.dispatch.items() if bytes([code]) not in _FOREIGN
    }
    for _code in _MAKING:
        dispatch[_code[0]] = _counted(dispatch[_code[0]])

    def __init__(self, stream: Stream, refer: Callable[[Any], object]) -> None:
        # Python 2 wrote byte strings, whatever was in them
        super().__init__(stream, encoding="utf-8", errors="backslashreplace")
        self._refer = refer
        self._stream = stream
        self._began = stream.tell()
        self._begun = time.thread_time()
        self._values = 0
        self._classes: dict[tuple[str, str], Any] = {}

    def load(self) -> object:
        """As Python's, with a look at what it costs now and then."""
        self.metastack: list[list[Any]] = []
        self.stack = []
        self.append = self.stack.append
        self.proto = 0
        self.read, self.readline = read, _ = self._stream.read, self._stream.readline
        dispatch = self.dispatch
        try:
            while True:
                for _ in range(_OPCODES_A_LOOK):
                    dispatch[read(1)[0]](self)
                self._look()
        except pickle._Stop as stop:
            return stop.value

    def spend(self, values: int) -> None:
        """Count values that are made or copied.

        Raises:
            RefusedCheckpoint: they are too many for the bytes that were read.
        """
        self._values += values
        if self._values > MOST_VALUES:
            self._look()

    def _look(self) -> None:
        """Raises: RefusedCheckpoint: the pickle costs more than one of its length may."""
        length = self._stream.tell() - self._began
        if time.thread_time() - self._begun > SECONDS + length / 2e6:
            raise RefusedCheckpoint(
                f"reading its pickle takes more than {SECONDS:g} s, and 0.5 s more for each megabyte: it is made to take long"
            )
        waiting = len(self.stack) + sum(map(len, self.metastack))
        if max(self._values, len(self.memo), waiting) > MOST_VALUES + length // _A_VALUE_BYTES:
            raise RefusedCheckpoint(
                f"its pickle makes more than {MOST_VALUES:,} values, and one more for each {_A_VALUE_BYTES} bytes: it is made "
                "to fill memory"
            )
        if len(self.metastack) > MOST_OPEN:
            raise RefusedCheckpoint(f"its pickle is nested more than {MOST_OPEN:,} deep")

    def _put(self, target: Any, pairs: Iterable[Any], values: Iterable[Any]) -> None:
        """Fill a mapping; keys of equal hash take time that grows with their square."""
        for number, (key, value) in enumerate(zip(pairs, values, strict=True), 1):
            _check_key(key)
            target[key] = value
            if not number % _KEYS_A_LOOK:
                self._look()

    def load_setitem(self) -> None:
        """As Python's, for keys that can be hashed."""
        value, key = self.stack.pop(), self.stack.pop()
        self.spend(1)
        _check_key(key)
        self.stack[-1][key] = value

    dispatch[pickle.SETITEM[0]] = load_setitem

    def load_setitems(self) -> None:
        """As Python's, for keys that can be hashed."""
        items = self.pop_mark()
        self._put(self.stack[-1], items[::2], items[1::2])

    dispatch[pickle.SETITEMS[0]] = load_setitems

    def load_dict(self) -> None:
        """As Python's, for keys that can be hashed."""
        self.spend(1)
        items = self.pop_mark()
        target: dict[Any, Any] = {}
        self._put(target, items[::2], items[1::2])
        self.append(target)

    dispatch[pickle.DICT[0]] = load_dict

    def _set(self) -> set[Any]:
        found: dict[Any, None] = {}
        items = self.pop_mark()
        self.spend(1)
        self._put(found, items, [None] * len(items))
        return set(found)

    def load_additems(self) -> None:
        """As Python's, for items that can be hashed."""
        for item in self._set():
            self.stack[-1].add(item)

    dispatch[pickle.ADDITEMS[0]] = load_additems

    def load_frozenset(self) -> None:
        """As Python's, for items that can be hashed."""
        self.append(frozenset(self._set()))

    dispatch[pickle.FROZENSET[0]] = load_frozenset

    def load_put(self) -> None:
        """As Python's, for a number as Python writes it."""
        number = int(self.readline()[:-1])
        if not 0 <= number < _LARGEST_MEMO:
            raise ValueError("a memo's number is longer than any that Python writes")
        self.memo[number] = self.stack[-1]

    dispatch[pickle.PUT[0]] = load_put

    def load_frame(self) -> None:
        """Skip the length of a frame: it only says how much to read ahead, and a damaged file may claim any."""
        self.read(8)

    dispatch[pickle.FRAME[0]] = load_frame

    def load_reduce(self) -> None:
        """As Python's, but what an ordered mapping is made of is looked at."""
        arguments, function = self.stack.pop(), self.stack.pop()
        if function is OrderedDict and isinstance(arguments, tuple) and arguments:
            made: Any = OrderedDict()
            first = arguments[0]
            pairs = [(key, value) for key, value in (first.items() if isinstance(first, dict) else first)]
            self.spend(1 + len(pairs))
            self._put(made, [key for key, _ in pairs], [value for _, value in pairs])
        else:
            self._spend_on(arguments)
            made = function(*arguments)
        self.append(made)

    dispatch[pickle.REDUCE[0]] = load_reduce

    def load_newobj(self) -> None:
        """As Python's."""
        self._spend_on(self.stack[-1])
        super().load_newobj()  # type: ignore[misc]

    dispatch[pickle.NEWOBJ[0]] = load_newobj

    def load_newobj_ex(self) -> None:
        """As Python's."""
        self._spend_on(self.stack[-2])
        self._spend_on(self.stack[-1])
        super().load_newobj_ex()  # type: ignore[misc]

    dispatch[pickle.NEWOBJ_EX[0]] = load_newobj_ex

    def _instantiate(self, kind: Any, arguments: list[Any]) -> None:
        self._spend_on(arguments)
        super()._instantiate(kind, arguments)  # type: ignore[misc]

    def _spend_on(self, arguments: Any) -> None:
        """Count what a call copies: its arguments, and what is in the first of them."""
        self.spend(_VALUES_A_CALL + len(arguments))
        for first in arguments[:1] if isinstance(arguments, list | tuple) else ():
            if isinstance(first, list | tuple | dict | set | frozenset):
                self.spend(len(first))

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
