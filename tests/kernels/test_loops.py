"""The compiled loops: the same bits as the twin in numpy on every width of vectors, and what they refuse."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import pytest

from rna_watch import kernels
from rna_watch.kernels import twin
from rna_watch.layout.dtypes import DTYPES, narrow, widen

if TYPE_CHECKING:
    from collections.abc import Iterator

Stored = npt.NDArray[Any]

pytestmark = pytest.mark.skipif(not kernels.COMPILED, reason="the package was built without a C compiler")
_WIDTHS = (16, 32, 64)
_NAMES = [name for name, dtype in DTYPES.items() if dtype.linear]
_SHAPES = [(2, 1), (2, 8), (3, 255), (6, 256), (7, 257), (11, 1000), (21, 519), (4, 9000)]


@pytest.fixture(params=_WIDTHS)
def _width(request: pytest.FixtureRequest) -> Iterator[None]:
    """The loops for vectors of so many bytes."""
    widest = kernels.vector_bytes(64)
    found = kernels.vector_bytes(request.param)
    try:
        if found != request.param:
            pytest.skip(f"this processor's widest vectors have {widest} bytes")
        yield
    finally:
        kernels.vector_bytes(64)


def _stored(dtype: str, count: int, size: int, seed: int = 0) -> Stored:
    """Iterates (K, n) that come closer to each other, in rows that lie apart."""
    rng = np.random.default_rng(seed)
    values = rng.standard_normal(size) + 0.1 * rng.standard_normal((count, size)) / (1 + np.arange(count))[:, None]
    room = np.zeros((count, size + 5), dtype=DTYPES[dtype].bits)
    narrow(values, dtype, room[:, 3 : size + 3])
    return room[:, 3 : size + 3]


@pytest.mark.usefixtures("_width")
@pytest.mark.parametrize("dtype", _NAMES)
@pytest.mark.parametrize(("count", "size"), _SHAPES)
def test_sums_have_the_bits_of_the_twin(dtype: str, count: int, size: int) -> None:
    """Products of steps and of residuals, squared norms: what is added to what was there before."""
    stored = _stored(dtype, count, size)
    for new in {1, (count + 1) // 2, count - 1}:
        found, expected = (np.full((new, count - 1), 0.25) for _ in range(2))
        assert kernels.add_gram(stored, dtype, found) == twin.add_gram(stored, dtype, expected)
        np.testing.assert_array_equal(found, expected)
    values = np.empty(stored.shape)
    widen(stored, dtype, values)
    found, expected = (np.full((count - 1, count), 0.25) for _ in range(2))
    kernels.add_products(values, found)
    twin.add_products(values, expected)
    np.testing.assert_array_equal(found, expected)
    squares, others = (np.full(2 * count - 1, 0.25) for _ in range(2))
    kernels.add_squares(stored, dtype, squares)
    twin.add_squares(stored, dtype, others)
    np.testing.assert_array_equal(squares, others)


@pytest.mark.usefixtures("_width")
@pytest.mark.parametrize("dtype", _NAMES)
@pytest.mark.parametrize(("count", "size"), _SHAPES)
def test_weighted_sums_have_the_bits_of_the_twin(dtype: str, count: int, size: int) -> None:
    """Also where values do not move, are zeros of either sign, or have no weight."""
    stored = _stored(dtype, count, size)
    stored[:, ::7] = stored[-1, ::7]
    stored[-1, ::5], stored[0, ::5] = 0, 0
    stored[:, 3::11] = 0x8000 if dtype == "bfloat16" else -0.0
    weights = np.random.default_rng(1).standard_normal(count)
    weights[1:-1:2] = 0.0
    weights /= weights.sum()
    found, expected = (np.empty(size, dtype=stored.dtype) for _ in range(2))
    assert kernels.combine(stored, dtype, weights, found) is True
    assert twin.combine(stored, dtype, weights, expected) is True
    assert found.tobytes() == expected.tobytes()


@pytest.mark.usefixtures("_width")
@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_every_value_of_sixteen_bits_is_read_and_written(dtype: str) -> None:
    """Subnormal ones too; what is not finite is said."""
    bits = np.arange(2**16, dtype=np.uint16).view(DTYPES[dtype].bits)
    values = np.empty(2**16)
    widen(bits, dtype, values)
    finite = np.isfinite(values)
    stored = np.stack([bits[finite], np.zeros_like(bits[finite])])
    out = np.empty_like(stored[0])
    assert kernels.combine(stored, dtype, np.array([1.0, 0.0]), out)
    kept = values[finite] != 0.0  # 0.0 + -0.0 is 0.0
    assert out[kept].tobytes() == bits[finite][kept].tobytes()
    assert not out[~kept].view(np.uint16).any()
    for each in bits[~finite][:: max(1, (~finite).sum() // 50)]:
        stored = np.array([[each], [0]], dtype=bits.dtype)
        assert not kernels.combine(stored, dtype, np.array([1.0, 0.0]), out[:1])
        rows = np.zeros((1, 1))
        kernels.add_gram(stored, dtype, rows)
        assert not np.isfinite(rows).any()


@pytest.mark.usefixtures("_width")
@pytest.mark.parametrize("dtype", _NAMES)
def test_sums_are_rounded_as_numpy_does(dtype: str) -> None:
    """To nearest, ties to even, over all sizes: below the smallest number, between subnormal ones, beyond the largest."""
    rng = np.random.default_rng(2)
    size = 200_000
    exponents = rng.integers(-30, 18, size).astype(np.float64)
    mantissas = 1 + rng.integers(0, 2**12, size) / 2**12  # many ties of float16, with float32 and float64 all are exact
    values = rng.choice([-1.0, 1.0], size) * mantissas * 2.0**exponents
    stored = np.zeros((2, size), dtype="<f8")
    stored[0] = values
    wide = np.empty(size)
    assert kernels.combine(stored, "float64", np.array([1.0, 0.0]), wide)
    np.testing.assert_array_equal(wide, values)
    # the same sums in a narrower dtype: weights make halves of neighbouring values, and what overflows
    few = np.empty((2, size), dtype=DTYPES[dtype].bits)
    narrow(np.stack([values, np.roll(values, 1)]), dtype, few)
    for weights in (np.array([0.5, 0.5]), np.array([3.0, -2.0]), np.array([2.0**-13, 1 - 2.0**-13])):
        exact = np.empty((2, size))
        widen(few, dtype, exact)
        kept = np.isfinite(exact).all(axis=0)
        part, exact = few[:, kept], exact[:, kept]
        expected, found = np.empty(part.shape[1], dtype=few.dtype), np.empty(part.shape[1], dtype=few.dtype)
        narrow(exact[1] + (exact[0] - exact[1]) * weights[0], dtype, expected)
        assert kernels.combine(np.ascontiguousarray(part), dtype, weights, found)
        assert (found == expected).all()


@pytest.mark.usefixtures("_width")
@pytest.mark.parametrize("dtype", _NAMES)
@pytest.mark.parametrize("value", [np.inf, -np.inf, np.nan])
@pytest.mark.parametrize("which", [0, 2, 4])
def test_what_is_not_finite_shows(dtype: str, value: float, which: int) -> None:
    """In the sums of whoever has a weight, and in the last row of products wherever in the window it is."""
    stored = _stored(dtype, 5, 700)
    bits = np.empty(1, dtype=stored.dtype)
    narrow(np.array([value]), dtype, bits)
    stored[which, 613] = bits[0]
    out = np.empty(700, dtype=stored.dtype)
    assert not kernels.combine(stored, dtype, np.array([0.1, 0.2, 0.3, 0.2, 0.2]), out)
    rows = np.zeros((1, 4))
    energy = kernels.add_gram(stored, dtype, rows)
    assert not np.isfinite([*rows[0], energy]).all()


def _odd(count: int) -> Stored:
    """Numbers at an odd address."""
    return np.zeros(8 * count + 1, np.uint8)[1:].view("<f8")


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: kernels.add_gram(np.zeros((2, 3), "<f4"), "float8", np.zeros((1, 1))), "no loops for float8"),
        (lambda: kernels.add_gram(np.zeros((2, 3), "<f8"), "float32", np.zeros((1, 1))), "elements of 4 bytes"),
        (lambda: kernels.add_gram(np.zeros((2, 6), "<f4")[:, ::2], "float32", np.zeros((1, 1))), "side by side"),
        (lambda: kernels.add_gram(_odd(6).reshape(2, 3), "float64", np.zeros((1, 1))), "aligned"),
        (lambda: kernels.add_products(np.zeros((1, 3)), _odd(1).reshape(1, 1)), "aligned"),
        (lambda: kernels.add_squares(np.zeros((1, 3)), "float64", _odd(1)), "aligned"),
        (lambda: kernels.combine(np.zeros((2, 3)), "float64", _odd(2), np.zeros(3)), "aligned"),
        (lambda: kernels.add_gram(np.zeros(3, "<f4"), "float32", np.zeros((1, 1))), r"\(K, n\)"),
        (lambda: kernels.add_gram(np.zeros((3, 3), "<f4"), "float32", np.zeros((3, 2))), "at most 2"),
        (lambda: kernels.add_products(np.zeros((3, 3)), np.zeros((3, 2))), r"\(M, 3\)"),
        (lambda: kernels.add_squares(np.zeros((3, 3)), "float64", np.zeros(6)), "5 aligned elements of 8 bytes"),
        (lambda: kernels.combine(np.zeros((1, 3)), "float64", np.ones(1), np.zeros(3)), "two checkpoints"),
        (
            lambda: kernels.combine(np.zeros((2, 3)), "float64", np.ones(3), np.zeros(3)),
            "2 aligned elements of 8 bytes",
        ),
        (
            lambda: kernels.combine(np.zeros((2, 3)), "float64", np.ones(2), np.zeros(4)),
            "3 aligned elements of 8 bytes",
        ),
    ],
)
def test_wrong_shapes_are_refused(call: Any, message: str) -> None:
    """Nothing is read or written beyond an array."""
    with pytest.raises(ValueError, match=message):
        call()


def test_refusals_keep_nothing() -> None:
    """A buffer that cannot be written is refused, and no array is held afterwards."""
    stored, rows, weights = np.zeros((2, 3)), np.zeros((1, 1)), np.ones(2)
    frozen = np.zeros(3)
    frozen.flags.writeable = False
    before = [sys.getrefcount(each) for each in (stored, rows, weights, frozen)]
    for _ in range(3):
        for call in (
            lambda: kernels.add_squares(stored, "float64", frozen),
            lambda: kernels.combine(stored, "float64", weights, frozen),
            lambda: kernels.add_gram(stored, "float64", rows[:, ::2][:, :0]),
            lambda: kernels.add_gram(stored, "float32", rows),
        ):
            with pytest.raises((ValueError, BufferError)):
                call()
    assert [sys.getrefcount(each) for each in (stored, rows, weights, frozen)] == before


def test_no_checkpoints_and_no_elements_are_no_sums() -> None:
    """A window of one checkpoint has no step."""
    assert twin.add_gram(np.ones((1, 3), "<f4"), "float32", np.zeros((0, 0))) == 0.0
    assert kernels.add_gram(np.ones((1, 3), "<f4"), "float32", np.zeros((0, 0))) == 0.0
    kernels.add_products(np.zeros((0, 3)), np.zeros((0, 0)))
    rows = np.zeros((1, 1))
    assert kernels.add_gram(np.ones((2, 0), "<f4"), "float32", rows) == rows[0, 0] == 0.0
    assert kernels.combine(np.ones((2, 0), "<f4"), "float32", np.ones(2), np.ones(0, "<f4"))
