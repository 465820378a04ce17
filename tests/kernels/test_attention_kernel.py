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
    q, k, v = (
        torch.randn(batch, heads, queries, width) / 4,
        torch.randn(batch, heads, keys, width),
        torch.randn(batch, heads, keys, width),
    )
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


def test_memory_that_cannot_be_read_by_rows_is_copied():
    torch.manual_seed(5)
    q, k, v = (torch.randn(2, 3, 8, length).transpose(2, 3) for length in (5, 7, 7))
    v = torch.randn(2, 3, 7, 2, 8)[:, :, :, 0]  # rows that lie further apart than those of k
    extra = torch.randn(2, 3, 7, 5).transpose(2, 3)
    found, none = attend(q, k, v, activations="int8", extra_scores=extra, needs_weights=False)
    wanted, _ = attend(q, k, v, activations="int8", extra_scores=extra)
    assert none is None
    torch.testing.assert_close(found, wanted, rtol=0, atol=1e-5)


def test_the_exponential_is_right_to_the_last_digits():
    """Two keys with values of ones: the sum is made of one weight's code and of the other as it is."""
    scores = -torch.linspace(0.0, 12.0, 2001)
    q = torch.zeros(1, 1, 2001, 4)
    q[0, 0, :, 0] = scores
    k = torch.zeros(1, 1, 2, 4)
    k[0, 0, 1, 0] = 1.0
    found, _ = attend(q, k, torch.ones(1, 1, 2, 4), activations="int8", needs_weights=False)
    weight = scores.double().exp()
    wanted = (127 + (127 * weight).round()) / 127 / (1 + weight)
    sure = ((127 * weight) % 1 - 0.5).abs() > 1e-3
    assert sure.sum() > 1900
    torch.testing.assert_close(found[0, 0, sure, 0].double(), wanted[sure], rtol=5e-7, atol=0)


def test_what_the_kernel_does_not_do_is_done_by_torch(without_kernels):
    torch.manual_seed(6)
    q, k, v = torch.randn(1, 2, 5, 8), torch.randn(1, 2, 6, 8), torch.randn(1, 2, 6, 8)
    for added in (torch.ones(5, 6).triu(1).bool(), torch.randn(5, 6)):
        options = {"activations": "int8", "added": added, "needs_weights": False}
        found = attend(q, k, v, **options)[0]
        assert torch.equal(found, without_kernels(lambda options=options: attend(q, k, v, **options))[0])
        assert (found - attend(q, k, v, activations="int8")[0]).abs().max() > 1e-2
    with pytest.raises(IndexError):
        attend(q, k[:, :, :0], v[:, :, :0], activations="int8", needs_weights=False)
    assert attend(q[:0], k[:0], v[:0], activations="int8", needs_weights=False)[0].shape == (0, 2, 5, 8)
    assert attend(q[:, :, :0], k, v, activations="int8", needs_weights=False)[0].shape == (1, 2, 0, 8)
