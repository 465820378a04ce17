"""Attention by the kernels against attend.py's with torch: the same codes, up to the last digit of the exponential."""

from __future__ import annotations

import pytest
import torch

from asrcompress.modules.attend import attend

SHAPES = [(1, 1, 1, 1, 4), (2, 4, 7, 9, 36), (3, 2, 50, 130, 64), (1, 2, 20, 33, 128), (2, 1, 6, 300, 48)]


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("extra", [False, True])
@pytest.mark.parametrize("padded", [False, True])
def test_it_is_attend(shape, extra, padded):
    batch, heads, queries, keys, width = shape
    torch.manual_seed(3)
    q, k, v = torch.randn(batch, heads, queries, width) / 4, torch.randn(batch, heads, keys, width), torch.randn(batch, heads, keys, width)
    padding = torch.zeros(batch, keys, dtype=torch.bool)
    padding[-1, keys // 2 + 1 :] = True
    options = {
        "activations": "int8",
        "padding": padding if padded else None,
        "extra_scores": torch.randn(batch, heads, queries, keys) if extra else None,
    }
    wanted, weights = attend(q, k, v, **options)
    found, none = attend(q, k, v, needs_weights=False, **options)
    assert weights is not None and none is None
    torch.testing.assert_close(found, wanted, rtol=0, atol=1e-5)
    in_float, _ = attend(q, k, v, **(options | {"activations": "none"}))
    assert keys == 1 or not torch.equal(found, in_float)


def test_memory_is_read_by_its_strides():
    torch.manual_seed(4)
    together = torch.randn(11, 2, 3, 4, 16)  # time, batch, (q, k, v), heads, width
    q, k, v = (together[:, :, part].permute(1, 2, 0, 3) for part in range(3))
    found, _ = attend(q, k, v, activations="int8", needs_weights=False)
    wanted, _ = attend(q.contiguous(), k.contiguous(), v.contiguous(), activations="int8")
    torch.testing.assert_close(found, wanted, rtol=0, atol=1e-5)
