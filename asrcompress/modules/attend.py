"""Scaled dot-product attention for floats, observed floats and codes: scores, softmax, sum of values.

With `activations="int8"` the scores q k^T and the sums over values run on int8 codes, one scale per (batch, head,
token). The values' scales are folded into the attention weights before those go to int8, so no scale has to be shared
along the reduction over tokens. On static grids scores are 16-bit codes and the softmax is integers/softmax.py's.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from asrcompress.errors import AsrCompressError
from asrcompress.integers.matmul import int_bmm, quantize_tokens
from asrcompress.integers.products import batched_product
from asrcompress.integers.rescale import rescale, times
from asrcompress.integers.softmax import LOWEST, softmax_sum
from asrcompress.integers.tensor import Activation, GridTensor, as_float, grid_tensor, same_grid
from asrcompress.kernels.attention import attention, fits
from asrcompress.kernels.call import usable
from asrcompress.modules.weight import passed


def attend(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    *,
    activations: str = "none",
    added: Tensor | None = None,
    padding: Tensor | None = None,
    extra_scores: Tensor | None = None,
    needs_weights: bool = True,
) -> tuple[Tensor, Tensor | None]:
    """softmax(q k^T + extra_scores, masked) v.

    Args:
        q: (batch, heads, queries, width), scaled already; passed its site `q`.
        k: (batch, heads, keys, width); passed its site `k`.
        v: (batch, heads, keys, width); passed its site `v`.
        activations: none or int8, for floats.
        added: (queries, keys): bool, True = left out; or floats to add, -inf = left out.
        padding: (batch, keys), True = left out.
        extra_scores: (batch, heads, queries, keys), such as those of relative positions.
        needs_weights: whether somebody looks at the weights; if not, floats may take a faster way.

    Returns:
        (batch, heads, queries, width), and the weights (batch, heads, queries, keys), None for activations and where
        nobody needs them.
    """
    if activations == "int8" and not needs_weights and added is None:
        tensors = (q, k, v) if extra_scores is None else (q, k, v, extra_scores)
        if usable(*tensors) and fits(q, k, v, padding, extra_scores):
            return attention(q, k, v, padding, extra_scores), None
    if isinstance(q, GridTensor) and isinstance(k, GridTensor) and isinstance(v, GridTensor):
        return _attend_static(q, k, v, added, padding, extra_scores), None
    scores = float_scores(as_float(q), as_float(k), activations)
    if extra_scores is not None:
        scores = scores + as_float(extra_scores)
    scores = as_float(passed(q, scores, "scores"))
    if added is not None:
        scores = scores.masked_fill(added, -math.inf) if added.dtype == torch.bool else scores + added
    if padding is not None:
        scores = scores.masked_fill(padding.bool()[:, None, None, :], -math.inf)
    weights = as_float(passed(q, torch.softmax(scores, dim=-1), "softmax"))
    out = _weighted_sum(weights, as_float(v), activations)
    return passed(q, out, "attended"), None if isinstance(q, Activation) else weights


def float_scores(q: Tensor, k: Tensor, activations: str) -> Tensor:
    """q k^T: (batch, heads, queries, width) x (batch, heads, keys, width) -> (batch, heads, queries, keys)."""
    if activations == "none":
        return q @ k.transpose(2, 3)
    (q_codes, q_scale), (k_codes, k_scale) = quantize_tokens(q), quantize_tokens(k)
    sums = int_bmm(q_codes.flatten(0, 1), k_codes.flatten(0, 1)).view(*q.shape[:3], k.shape[2])
    return sums.float() * q_scale * k_scale.transpose(2, 3)


def scores_product(q: Tensor, k: Tensor, activations: str, kind: str) -> Tensor:
    """q k^T for floats, observed floats and codes, passing a site: a part of the scores, to be added to others."""
    if isinstance(q, GridTensor) and isinstance(k, GridTensor):
        grid = q.sites.grid(q.sites.next_site(kind))
        sums = batched_product(q.payload, k.payload)
        return grid_tensor(rescale(sums, q.grid.scale * k.grid.scale / grid.scale, grid), grid, q.sites)
    return passed(q, float_scores(as_float(q), as_float(k), activations), kind)


def extend(cached: Tensor, new: Tensor) -> Tensor:
    """Cached keys or values (batch, heads, time, width) with those of new steps behind them."""
    return same_grid(torch.cat, [cached, new], 2)


def _weighted_sum(weights: Tensor, v: Tensor, activations: str) -> Tensor:
    """(batch, heads, queries, keys) x (batch, heads, keys, width) -> (batch, heads, queries, width)."""
    if activations == "none":
        return weights @ v
    v_codes, v_scale = quantize_tokens(v)
    w_codes, w_scale = quantize_tokens(weights * v_scale.transpose(2, 3))
    sums = int_bmm(w_codes.flatten(0, 1), v_codes.flatten(0, 1).transpose(1, 2))
    return sums.view(v.shape[0], v.shape[1], weights.shape[2], v.shape[3]).float() * w_scale


def _attend_static(
    q: GridTensor, k: GridTensor, v: GridTensor, added: Tensor | None, padding: Tensor | None, extra_scores: Tensor | None
) -> GridTensor:  # fmt: skip
    sites = q.sites
    grid, out_grid = sites.grid(sites.next_site("scores")), sites.grid(sites.next_site("attended"))
    scores = times(batched_product(q.payload, k.payload), q.grid.scale * k.grid.scale / grid.scale)
    if isinstance(extra_scores, GridTensor):
        scores = scores + times(extra_scores.payload, extra_scores.grid.scale / grid.scale)
    scores = scores.clamp(grid.code_min, grid.code_max)  # of the sum, whose parts may be larger
    if added is not None:
        if added.dtype != torch.bool:
            raise AsrCompressError(
                f"module '{sites.module_name}': an attention mask in float meets integers; use level computed"
            )
        scores = scores.masked_fill(added, LOWEST)
    if padding is not None:
        scores = scores.masked_fill(padding.bool()[:, None, None, :], LOWEST)
    num_bits = sites.operand_bits(sites.next_site("softmax"))
    values = v.payload.flatten(0, 1)
    codes = softmax_sum(scores.flatten(0, 1), grid.scale, values, v.grid.scale, out_grid, num_bits)
    return grid_tensor(codes.view(*q.shape[:3], v.shape[3]), out_grid, sites)
