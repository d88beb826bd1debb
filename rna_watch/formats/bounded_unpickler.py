"""Python's unpickler with bounds: what a pickle may cost in time and memory follows from its length, whatever it asks for."""

from __future__ import annotations

import pickle
import time
from collections import OrderedDict
from typing import TYPE_CHECKING, Any, ClassVar, Protocol

from rna_watch.errors import RefusedCheckpoint

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

# what a pickle may cost; of a model with 250,000 tensors it takes 55 MB, 3 values a tensor and 8 s
SECONDS = 1.0  # of the processor, and half a one more for each megabyte
MOST_VALUES = 1_000_000  # lists, mappings and objects, and as many memos; and one more for each 8 bytes
_A_VALUE_BYTES = 8
_VALUES_A_CALL = 4
MOST_OPEN = 10_000  # lists and tuples that are begun inside others
_MOST_BITS = 128  # of a number that is a key
_LARGEST_MEMO = 2**32
_OPCODES_A_LOOK = 1024
_KEYS_A_LOOK = 64
_VALUES_A_LOOK = 1024  # beyond the most of a short pickle


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

    def counted(reader: BoundedUnpickler) -> None:
        reader.spend(1)
        read(reader)

    return counted


class BoundedUnpickler(pickle._Unpickler):
    """Python's own reader in Python, with fewer opcodes.

    The one in C cannot be kept from giving states to our values, and fills memory up to a memo number that a damaged
    file makes up (measured: 4 GB and 18 s for a pickle of 9 bytes).
    """

    stack: list[Any]
    memo: dict[int, Any]
    append: Callable[[Any], None]
    pop_mark: Callable[[], list[Any]]
    dispatch: ClassVar[dict[int, Callable[[Any], None]]] = {
        code: read for code, read in pickle._Unpickler.dispatch.items() if bytes([code]) not in _FOREIGN
    }
    for _code in _MAKING:
        dispatch[_code[0]] = _counted(dispatch[_code[0]])

    def __init__(self, stream: Stream) -> None:
        # Python 2 wrote byte strings, whatever was in them
        super().__init__(stream, encoding="utf-8", errors="backslashreplace")
        self._stream = stream
        self._began = stream.tell()
        self._begun = time.thread_time()
        self._values = 0
        self._looked = MOST_VALUES  # so many values there were, or might be, at the last look

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
        except pickle._Stop as stop:  # type: ignore[attr-defined]
            return stop.value

    def spend(self, values: int) -> None:
        """Count values that are made or copied.

        Raises:
            RefusedCheckpoint: they are too many for the bytes that were read.
        """
        self._values += values
        if self._values > self._looked + _VALUES_A_LOOK:  # a look asks the system for the time, which is slow
            self._look()

    def _look(self) -> None:
        """Raises: RefusedCheckpoint: the pickle costs more than one of its length may."""
        self._looked = max(self._values, MOST_VALUES)
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
