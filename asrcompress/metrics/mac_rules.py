"""Which torch operations multiply and accumulate, and how often: one rule per operation.

`RULES` maps an operation to a rule; `NO_MACS` (with pointwise operations and views) names those that do none.
An operation in neither is not guessed at: cost.py makes it an error. One MAC is one product added to a sum.
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
        data = args.get("input") if args.get("input") is not None else args["data"]
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

# The gates of _thnn_fused_*_cell are elementwise: their matrix products run, and count, as mm before them.
NO_MACS: frozenset[str] = frozenset(
    f"aten.{name}"
    for name in (
        # making tensors
        "arange bernoulli bernoulli_ empty empty_like empty_permuted empty_strided exponential_ eye full full_like "
        "linspace multinomial native_dropout new_empty new_empty_strided new_full new_ones new_zeros normal normal_ "
        "ones ones_like rand rand_like randint randint_like randn randn_like random_ randperm scalar_tensor "
        "tril_indices triu_indices uniform_ zeros zeros_like "
        # moving and picking
        "_chunk_cat _conj_physical _copy_from _efficientzerotensor _index_put_impl_ _lazy_clone _local_scalar_dense "
        "_nested_from_padded _nested_from_padded_and_nested_example _nested_tensor_from_mask "
        "_nested_tensor_from_mask_left_aligned _nested_tensor_from_tensor_list _nested_tensor_size "
        "_nested_tensor_storage_offsets _nested_tensor_strides _pack_padded_sequence _pin_memory _reshape_copy "
        "_resize_output_ _stack _to_copy _to_dense _unsafe_index _unsafe_index_put _unsafe_masked_index _unsafe_view "
        "affine_grid_generator alias_copy as_strided_ block_diag cat channel_shuffle clone col2im complex "
        "constant_pad_nd copy copy_ detach_ diag_embed embedding embedding_renorm_ expand_copy fill fill_ flip gather "
        "im2col index index_copy index_copy_ index_fill index_fill_ index_put index_put_ index_select int_repr "
        "is_pinned is_same_size is_set_to lift lift_fresh lift_fresh_copy masked_fill masked_fill_ masked_scatter "
        "masked_scatter_ masked_select narrow_copy nonzero nonzero_static permute_copy pixel_shuffle pixel_unshuffle "
        "put put_ reflection_pad1d reflection_pad2d reflection_pad3d repeat repeat_interleave replication_pad1d "
        "replication_pad2d replication_pad3d resize_ resize_as_ roll rot90 scatter scatter_ select_scatter set_ "
        "slice_scatter split_copy split_with_sizes_copy squeeze_ stack t_ take to_padded_tensor transpose_ tril tril_ "
        "triu triu_ unbind_copy unfold_copy unsafe_split unsafe_split_with_sizes unsqueeze_ upsample_nearest1d "
        "upsample_nearest2d upsample_nearest3d view_copy zero zero_ "
        # comparing, sorting, reducing
        "_aminmax _assert_async _assert_scalar _is_all_true _is_any_true _unique _unique2 all allclose amax amin "
        "aminmax any argmax argmin bincount bucketize count_nonzero cummax cummin cumprod cumprod_ cumsum cumsum_ "
        "equal eq_ ge_ gt_ histc index_add index_add_ index_reduce isin kthvalue le_ linalg_vector_norm "
        "linalg__powsum logcumsumexp logsumexp lt_ max mean median min mode nanmedian nansum ne_ norm prod "
        "scatter_add scatter_add_ scatter_reduce scatter_reduce_ searchsorted sort std std_mean sum topk "
        "unique_consecutive unique_dim unique_dim_consecutive var var_mean "
        # elementwise without the pointwise tag, normalisation, pooling, dropout
        "_add_relu _add_relu_ _adaptive_avg_pool2d _adaptive_avg_pool3d _batch_norm_no_update _batch_norm_with_update "
        "_fused_dropout _fused_rms_norm _log_softmax _masked_scale _masked_softmax _native_batch_norm_legit "
        "_native_batch_norm_legit_no_training _nested_tensor_softmax_with_shape _prelu_kernel _safe_softmax _softmax "
        "_thnn_fused_gru_cell _thnn_fused_lstm_cell _transform_bias_rescale_qkv _weight_norm_interface abs_ "
        "adaptive_max_pool2d adaptive_max_pool3d avg_pool2d avg_pool3d celu_ copysign_ cudnn_batch_norm elu_ "
        "floor_divide floor_divide_ gelu_ glu hardsigmoid_ hardswish hardswish_ hardtanh_ heaviside_ leaky_relu "
        "leaky_relu_ log_sigmoid_forward max_pool2d_with_indices max_pool3d_with_indices mish_ native_batch_norm "
        "native_group_norm native_layer_norm polar renorm renorm_ rrelu_with_noise rrelu_with_noise_ rsub squeeze_copy "
        "threshold_ xlogy_ __irshift__ "
        # quantising by hand
        "_empty_affine_quantized _empty_per_channel_affine_quantized _make_per_channel_quantized_tensor "
        "_make_per_tensor_quantized_tensor dequantize fake_quantize_per_channel_affine_cachemask "
        "fake_quantize_per_tensor_affine_cachemask _fake_quantize_learnable_per_channel_affine "
        "_fake_quantize_learnable_per_tensor_affine _fake_quantize_per_tensor_affine_cachemask_tensor_qparams "
        "q_per_channel_axis q_per_channel_scales q_per_channel_zero_points q_scale q_zero_point qscheme "
        "quantize_per_channel quantize_per_tensor quantize_per_tensor_dynamic quantized_max_pool1d "
        "quantized_max_pool2d "
        # losses
        "_ctc_loss _cudnn_ctc_loss binary_cross_entropy binary_cross_entropy_with_logits huber_loss mse_loss "
        "nll_loss2d_forward nll_loss_forward smooth_l1_loss soft_margin_loss"
    ).split()
) | frozenset(
    f"quantized.{name}"
    for name in (
        "add add_relu add_scalar batch_norm batch_norm1d batch_norm2d cat cat_relu clamp elu embedding_4bit "
        "embedding_byte group_norm hardswish instance_norm layer_norm leaky_relu linear_unpack max_pool1d max_pool2d "
        "mul mul_relu mul_scalar prelu relu6 sigmoid softmax threshold"
    ).split()
)


def does_no_macs(op: Any, name: str) -> bool:
    """Whether an operation (a torch OpOverload called `name`) is known to do no MACs."""
    return name in NO_MACS or (op.namespace == "aten" and (torch.Tag.pointwise in op.tags or op.is_view))
