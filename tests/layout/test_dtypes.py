"""Widening and narrowing against torch, bit by bit."""

import numpy as np
import pytest
import torch

from rna_watch.layout.dtypes import DTYPES, PAIRS, narrow, widen

FLOATING = [name for name, dtype in DTYPES.items() if dtype.linear]


def narrowed(values, dtype):
    """float64 values in a stored dtype, as a tensor."""
    out = np.empty(len(values), dtype=DTYPES[dtype].bits)
    narrow(np.asarray(values, dtype=np.float64), dtype, out)
    return torch.from_numpy(out.view(f"<i{out.itemsize}")).view(getattr(torch, dtype))


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_every_sixteen_bit_number_is_widened_exactly_and_back(dtype):
    """All 65,536 patterns widen to torch's value and narrow to themselves (NaNs to a NaN)."""
    bits = np.arange(2**16, dtype=np.uint16)
    tensor = torch.from_numpy(bits.view(np.int16)).view(getattr(torch, dtype))
    wide = np.empty(2**16)
    widen(bits.view(DTYPES[dtype].bits), dtype, wide)
    np.testing.assert_array_equal(wide, tensor.double().numpy())
    back = narrowed(wide, dtype)
    nan = tensor.isnan()
    assert torch.equal(back.isnan(), nan)
    assert torch.equal(back.view(torch.int16)[~nan], tensor.view(torch.int16)[~nan])


@pytest.mark.parametrize("dtype", FLOATING)
def test_narrowing_rounds_as_torch_does(dtype):
    """Ordinary numbers, ties, tiny and huge ones are rounded to torch's bits."""
    rng = np.random.default_rng(6)
    values = np.concatenate(
        [
            rng.standard_normal(5000) * 10.0 ** rng.integers(-12, 12, 5000),
            1.0 + np.arange(64) * 2.0**-9,  # ties of bfloat16
            1.0 + np.arange(64) * 2.0**-12,  # and of float16
            [0.0, -0.0, np.inf, -np.inf, 1e-50, 65519.0, 65520.0, 3.38e38, 3.4e38],
        ]
    ).astype(np.float32 if dtype in {"float16", "bfloat16"} else np.float64)
    expected = torch.from_numpy(values).to(getattr(torch, dtype))
    kind = {2: torch.int16, 4: torch.int32, 8: torch.int64}[expected.element_size()]
    assert torch.equal(narrowed(values, dtype).view(kind), expected.view(kind))


@pytest.mark.parametrize("dtype", FLOATING)
def test_values_beyond_the_range_become_infinite_without_a_warning(dtype):
    """A combination that overflows its dtype is infinite, as anywhere; NaN stays NaN."""
    found = narrowed([1e308 * 10, -1e308 * 10, 1e300, np.nan], dtype).double()
    assert found[:2].tolist() == [np.inf, -np.inf]
    assert found[2] == (1e300 if dtype == "float64" else np.inf)
    assert found[3].isnan()


@pytest.mark.parametrize("dtype", FLOATING)
def test_eps_is_torch_s(dtype):
    """The spacing at one, from which rounding noise is judged, is that of the dtype."""
    assert DTYPES[dtype].eps == torch.finfo(getattr(torch, dtype)).eps


@pytest.mark.parametrize("dtype", DTYPES)
def test_sizes_are_torch_s(dtype):
    """Every stored dtype has torch's name and size; those of eight bits and integers are not averaged."""
    known = getattr(torch, dtype)
    assert DTYPES[dtype].itemsize == known.itemsize
    assert DTYPES[dtype].linear is (known.is_floating_point and known.itemsize > 1)


@pytest.mark.parametrize("dtype", PAIRS)
def test_complex_numbers_are_pairs(dtype):
    """Complex numbers are two of the real ones that torch shows them as."""
    assert torch.view_as_real(torch.zeros(1, dtype=getattr(torch, dtype))).dtype is getattr(torch, PAIRS[dtype])
