"""Fake quantization: recognised on every grid that tools use, and never in a float weight."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from asrcompress.metrics.honesty_fake import examine, fake_quantized


def fake(weight: Tensor, num_bits: int, group: int | None, *, symmetric: bool = True) -> Tensor:
    """Round to a grid and back, as fake-quant modules do; group None: per tensor, 0: per channel."""
    values = weight.reshape(1, -1) if group is None else weight.reshape(-1, group or weight[0].numel())
    if symmetric:
        top = max(2 ** (num_bits - 1) - 1, 1)
        scale = values.abs().amax(1, keepdim=True) / top
        rounded = (values / scale).round().clamp(-top, top) * scale if num_bits > 1 else values.sign() * scale
    else:
        low, high = values.amin(1, keepdim=True).clamp(max=0), values.amax(1, keepdim=True).clamp(min=0)
        scale = (high - low) / (2**num_bits - 1)
        zero = (-low / scale).round()
        rounded = (((values / scale).round() + zero).clamp(0, 2**num_bits - 1) - zero) * scale
    return rounded.reshape(weight.shape)


def weight(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed)) * 0.05


@pytest.mark.parametrize("symmetric", [True, False])
@pytest.mark.parametrize("group", [None, 0])
@pytest.mark.parametrize("num_bits", [2, 3, 4, 6, 8])
@pytest.mark.parametrize("shape", [(144, 144), (64, 3, 3), (8, 1, 5, 20)])
def test_fake_quantization_is_recognised(
    shape: tuple[int, ...], num_bits: int, group: int | None, symmetric: bool
) -> None:
    found = examine("w", fake(weight(*shape), num_bits, group, symmetric=symmetric))
    assert found is not None and found.num_bits == num_bits
    assert found.granularity == ("per_tensor" if group is None else "per_channel")
    assert found.distinct_values <= 2**num_bits


@pytest.mark.parametrize("group", [32, 64, 128])
@pytest.mark.parametrize("num_bits", [2, 4, 8])
def test_groups_are_recognised(num_bits: int, group: int) -> None:
    found = examine("w", fake(weight(40, 512), num_bits, group))
    assert found is not None and (found.num_bits, found.granularity) == (num_bits, f"per_group:{group}")


def test_signs_and_a_scale_are_one_bit() -> None:
    found = examine("w", fake(weight(20, 60), 1, 0))
    assert found is not None and found.num_bits == 1


def test_a_codebook_without_equal_steps_is_recognised() -> None:
    levels = torch.tensor(
        [-1.0, -0.7, -0.52, -0.39, -0.28, -0.18, -0.09, 0.0, 0.08, 0.16, 0.25, 0.34, 0.44, 0.56, 0.72, 1.0]
    )
    codes = torch.randint(0, 16, (32, 256), generator=torch.Generator().manual_seed(3))
    found = examine("w", levels[codes] * torch.rand(32, 1).add(0.5))
    assert found is not None and (found.num_bits, found.uniform, found.distinct_values) == (4, False, 16)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_four_bits_in_half_precision_are_recognised(dtype: torch.dtype) -> None:
    found = examine("w", fake(weight(144, 144), 4, 0).to(dtype))
    assert found is not None and found.num_bits == 4 and found.times_larger == 4.0


@settings(max_examples=40, deadline=None)
@given(
    seed=st.integers(0, 2**31),
    shape=st.sampled_from([(2, 2), (5, 9), (30, 144), (16, 1, 3), (64, 2), (1, 400), (40, 1)]),
    dtype=st.sampled_from([torch.float32, torch.float16, torch.bfloat16]),
    uniform=st.booleans(),
)
def test_a_float_weight_is_never_accused(seed: int, shape: tuple[int, ...], dtype: torch.dtype, uniform: bool) -> None:
    generator = torch.Generator().manual_seed(seed)
    values = torch.rand(shape, generator=generator) - 0.5 if uniform else torch.randn(shape, generator=generator)
    assert examine("w", values.to(dtype)) is None


def test_pruned_constant_and_empty_weights_are_not_accused() -> None:
    pruned = weight(64, 64)
    pruned[torch.rand(64, 64, generator=torch.Generator().manual_seed(2)) < 0.9] = 0
    for tensor in (pruned, torch.zeros(8, 8), torch.ones(8, 8), torch.zeros(0, 4), torch.full((4, 4), float("nan"))):
        assert examine("w", tensor) is None


def test_one_float_channel_clears_the_weight() -> None:
    mixed = fake(weight(64, 144), 4, 0)
    mixed[17] = weight(1, 144, seed=9)[0]
    assert examine("w", mixed) is None


def test_the_sentence_corrects_the_claim_and_ties_are_told_once() -> None:
    tensor = fake(weight(64, 144), 4, 0, symmetric=False)
    found = fake_quantized(
        {"fc.weight": tensor, "tied.weight": tensor, "fc.bias": torch.ones(64), "float": weight(9, 9)}
    )
    assert [one.text for one in found] == [
        "fc.weight: claims int4? 16 distinct values per channel, stored as float32: 8.0x larger than claimed"
    ]
    assert (found[0].size_bytes, found[0].packed_size_bytes) == (64 * 144 * 4, 64 * 144 // 2)
