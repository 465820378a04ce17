"""Which torch operations multiply and accumulate, and how often: one rule per operation.

`RULES` maps an operation to a rule; no_macs.py names the operations that do none. An operation in neither is not
guessed at: cost.py makes it an error. One MAC is one product added to a sum.
Conventions: a bias is an addition, not a MAC; products with zero padding and masked attention scores count, because
dense kernels compute them; normalisation, softmax, pooling, losses and elementwise scaling are not MACs.
Leaves out running and attributing (cost.py), FFTs, distances, sparse tensors and backward passes.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

import torch

from asrcompress.errors import AsrCompressError

# A rule sees the arguments by their names in the operation's schema, and the result.
# It returns the MACs and the dtypes of the operands that are multiplied (never the bias).
Arguments = Mapping[str, Any]
Rule = Callable[[Arguments, Any], tuple[int, tuple[str, ...]]]


def _names(*tensors: torch.Tensor) -> tuple[str, ...]:
    return tuple(str(tensor.dtype).removeprefix("torch.") for tensor in tensors)


def _rows(tensor: torch.Tensor) -> int:
    """How many vectors a tensor holds along its last dimension."""
    return math.prod(tensor.shape[:-1])


def _matrix(left: str, right: str) -> Rule:
    """A (..., n, k) by (..., k, m) product: every output element sums k products."""

    def rule(args: Arguments, out: Any) -> tuple[int, tuple[str, ...]]:
        return out.numel() * args[left].shape[-1], _names(args[left], args[right])

    return rule


def _batch_sum(args: Arguments, out: Any) -> tuple[int, tuple[str, ...]]:
    """addbmm: the products of a batch of matrices, added up over the batch."""
    left, right = args["batch1"], args["batch2"]
    return left.numel() * right.shape[-1], _names(left, right)


def _outer(args: Arguments, out: Any) -> tuple[int, tuple[str, ...]]:
    return out.numel(), _names(args["vec1"], args["vec2"])


def _packed_weight(weight_dtype: str) -> Rule:
    """A matrix product whose right side is packed: the inner dimension is read from the left side."""

    def rule(args: Arguments, out: Any) -> tuple[int, tuple[str, ...]]:
        return out.numel() * args["self"].shape[-1], (*_names(args["self"]), weight_dtype)

    return rule


def _convolution(args: Arguments, out: Any) -> tuple[int, tuple[str, ...]]:
    """Weight is (out, in / groups, *kernel), or (in, out / groups, *kernel) when transposed."""
    data, weight = args.get("input", args.get("self")), args["weight"]
    per_element = math.prod(weight.shape[1:])
    return (data if args.get("transposed") else out).numel() * per_element, _names(data, weight)


def _convolution_transposed(args: Arguments, out: Any) -> tuple[int, tuple[str, ...]]:
    return _convolution({**args, "transposed": True}, out)


def _convolution_tbc(args: Arguments, out: Any) -> tuple[int, tuple[str, ...]]:
    """Weight is (kernel, in, out)."""
    data, weight = args["self"], args["weight"]
    return out.numel() * weight.shape[0] * weight.shape[1], _names(data, weight)


def _attention_products(batch: int, num_queries: int, num_keys: int, width: int, value_width: int) -> int:
    """Scores (queries by keys) and their weighted sum of values; full, with or without a causal mask."""
    return batch * num_queries * num_keys * (width + value_width)


def _attention(args: Arguments, out: Any) -> tuple[int, tuple[str, ...]]:
    """query (..., heads, T, D), key (..., S, D), value (..., S, Dv); keys may have fewer heads."""
    query, key, value = args["query"], args["key"], args["value"]
    macs = _attention_products(
        math.prod(query.shape[:-2]), query.shape[-2], key.shape[-2], query.shape[-1], value.shape[-1]
    )
    return macs, _names(query, key, value)


def _padded_shape(tensor: torch.Tensor) -> tuple[int, int]:
    """(batch, time) of (batch, time, width); a nested tensor counts as padded, as without the fast path."""
    if tensor.is_nested:
        sizes = tensor._nested_tensor_size()
        return int(sizes.shape[0]), int(sizes[:, 0].max())
    return int(tensor.shape[0]), int(tensor.shape[1])


def _native_attention(args: Arguments, out: Any) -> tuple[int, tuple[str, ...]]:
    """nn.MultiheadAttention's fast path: projections in and out, scores, weighted sum."""
    (batch, num_queries), (_, num_keys) = _padded_shape(args["query"]), _padded_shape(args["key"])
    width = args["embed_dim"]
    projections = batch * (2 * num_queries + 2 * num_keys) * width * width
    products = _attention_products(batch, num_queries, num_keys, width, width)
    return projections + products, _names(args["query"], args["qkv_weight"])


def _native_encoder_layer(args: Arguments, out: Any) -> tuple[int, tuple[str, ...]]:
    """nn.TransformerEncoderLayer's fast path: self-attention and feed-forward in one operation."""
    batch, num_frames = _padded_shape(args["src"])
    weights = (args["qkv_weight"], args["proj_weight"], args["ffn_weight_1"], args["ffn_weight_2"])
    products = _attention_products(batch, num_frames, num_frames, args["embed_dim"], args["embed_dim"])
    macs = batch * num_frames * sum(weight.numel() for weight in weights) + products
    return macs, _names(args["src"], args["qkv_weight"])


def _recurrent(*weight_names: str) -> Rule:
    """Fused recurrent layers: every weight matrix meets every (time, batch) row once; vectors are biases."""

    def rule(args: Arguments, out: Any) -> tuple[int, tuple[str, ...]]:
        weights = [w for name in weight_names for w in (args[name] if isinstance(args[name], list) else [args[name]])]
        matrices = [weight for weight in weights if weight.dim() == 2]
        if not matrices:
            raise AsrCompressError("a fused recurrent layer shows no weight matrices: its MACs cannot be counted")
        return _rows(args["input"]) * sum(m.numel() for m in matrices), _names(args["input"], matrices[0])

    return rule


def _quantized_recurrent(num_gates: int) -> Rule:
    """torch.ao's dynamic GRU and LSTM: the weights are hidden, so sizes come from the data and the states."""

    def rule(args: Arguments, out: Any) -> tuple[int, tuple[str, ...]]:
        data: torch.Tensor = args["data"] if args.get("input") is None else args["input"]
        states = args["hx"]
        hidden = states[0] if isinstance(states, list) else states
        size, num_directions = hidden.shape[-1], 2 if args["bidirectional"] else 1
        per_row = 0
        for layer in range(args["num_layers"]):
            width = data.shape[-1] if layer == 0 else size * num_directions
            per_row += num_directions * num_gates * size * (width + size)
        float16 = "fp16" in str(args["params"][0].__getstate__()[0])
        return _rows(data) * per_row, ("float32", "float16") if float16 else ("quint8", "qint8")

    return rule


def _quantized_cell(num_gates: int) -> Rule:
    def rule(args: Arguments, out: Any) -> tuple[int, tuple[str, ...]]:
        states = args["hx"]
        hidden = states[0] if isinstance(states, list) else states
        macs = _rows(hidden) * num_gates * hidden.shape[-1] * (args["input"].shape[-1] + hidden.shape[-1])
        return macs, ("quint8", "qint8")

    return rule


def _quantized_linear(operand_dtypes: tuple[str, str]) -> Rule:
    def rule(args: Arguments, out: Any) -> tuple[int, tuple[str, ...]]:
        return out.numel() * args["X"].shape[-1], operand_dtypes

    return rule


def _quantized_convolution(transposed: bool) -> Rule:
    def rule(args: Arguments, out: Any) -> tuple[int, tuple[str, ...]]:
        data = args["qx"]
        weight, _ = args["packed_weight"].unpack()
        per_element = math.prod(weight.shape[1:])
        return (data if transposed else out).numel() * per_element, ("quint8", *_names(weight))

    return rule


_TWO = _matrix("self", "mat2")
_INT8 = _quantized_linear(("quint8", "qint8"))
_FP16 = _quantized_linear(("float32", "float16"))

RULES: dict[str, Rule] = {
    # matrix products
    "aten.mm": _TWO,
    "aten.bmm": _TWO,
    "aten._int_mm": _TWO,
    "aten._scaled_mm": _TWO,
    "aten.addmm": _matrix("mat1", "mat2"),
    "aten.addmm_": _matrix("mat1", "mat2"),
    "aten._addmm_activation": _matrix("mat1", "mat2"),
    "aten.baddbmm": _matrix("batch1", "batch2"),
    "aten.baddbmm_": _matrix("batch1", "batch2"),
    "aten.addbmm": _batch_sum,
    "aten.addbmm_": _batch_sum,
    "aten.mv": _matrix("self", "vec"),
    "aten.addmv": _matrix("mat", "vec"),
    "aten.addmv_": _matrix("mat", "vec"),
    "aten.addr": _outer,
    "aten.addr_": _outer,
    "aten.dot": _matrix("self", "tensor"),
    "aten.vdot": _matrix("self", "other"),
    "aten._weight_int8pack_mm": _packed_weight("int8"),
    "aten._weight_int4pack_mm": _packed_weight("int4"),
    "aten._weight_int4pack_mm_for_cpu": _packed_weight("int4"),
    # convolutions
    "aten.convolution": _convolution,
    "aten._convolution": _convolution,
    "aten.convolution_overrideable": _convolution,
    "aten.mkldnn_convolution": _convolution,
    "aten.cudnn_convolution": _convolution,
    "aten.cudnn_convolution_relu": _convolution,
    "aten.cudnn_convolution_add_relu": _convolution,
    "aten.cudnn_convolution_transpose": _convolution_transposed,
    "aten._conv_depthwise2d": _convolution,
    "aten.conv_depthwise3d": _convolution,
    "aten.slow_conv_dilated2d": _convolution,
    "aten.slow_conv_transpose2d": _convolution_transposed,
    "aten.conv_tbc": _convolution_tbc,
    # attention
    "aten._scaled_dot_product_flash_attention_for_cpu": _attention,
    "aten._scaled_dot_product_flash_attention": _attention,
    "aten._scaled_dot_product_efficient_attention": _attention,
    "aten._scaled_dot_product_cudnn_attention": _attention,
    "aten._scaled_dot_product_fused_attention_overrideable": _attention,
    "aten._native_multi_head_attention": _native_attention,
    "aten._transformer_encoder_layer_fwd": _native_encoder_layer,
    # recurrent layers that hide their matrix products
    "aten.mkldnn_rnn_layer": _recurrent("weight0", "weight1"),
    "aten._cudnn_rnn": _recurrent("weight"),
    "aten.quantized_gru": _quantized_recurrent(3),
    "aten.quantized_lstm": _quantized_recurrent(4),
    "quantized.quantized_gru_cell_dynamic": _quantized_cell(3),
    "quantized.quantized_lstm_cell_dynamic": _quantized_cell(4),
    "quantized.quantized_rnn_tanh_cell_dynamic": _quantized_cell(1),
    "quantized.quantized_rnn_relu_cell_dynamic": _quantized_cell(1),
    # torch.ao's integer kernels
    "quantized.linear": _INT8,
    "quantized.linear_relu": _INT8,
    "quantized.linear_dynamic": _INT8,
    "quantized.linear_relu_dynamic": _INT8,
    "quantized.linear_dynamic_fp16": _FP16,
    "quantized.linear_relu_dynamic_fp16": _FP16,
    **{f"quantized.conv{n}d{kind}": _quantized_convolution(False) for n in (1, 2, 3) for kind in ("", "_relu")},
    **{f"quantized.conv{n}d_dynamic": _quantized_convolution(False) for n in (1, 2, 3)},
    **{f"quantized.conv_transpose{n}d": _quantized_convolution(True) for n in (1, 2, 3)},
}
