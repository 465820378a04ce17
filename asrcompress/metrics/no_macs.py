"""Operations that are known to do no multiply-accumulates; the ones that do are in mac_rules.py.

Pointwise operations and views of torch's own namespace are recognised by their tags and need no name here.
What is named here counts zero, so an operation belongs here only if its kernel forms no sum of products of two
tensors. By convention that holds for norms, variances and squared-error losses too.
"""

from __future__ import annotations

from typing import Any

import torch

_MAKING = """
    arange bernoulli bernoulli_ empty empty_like empty_permuted empty_strided exponential_ eye full full_like
    linspace multinomial native_dropout new_empty new_empty_strided new_full new_ones new_zeros normal normal_ ones
    ones_like rand rand_like randint randint_like randn randn_like random_ randperm scalar_tensor tril_indices
    triu_indices uniform_ zeros zeros_like
"""
_MOVING = """
    _chunk_cat _conj_physical _copy_from _efficientzerotensor _index_put_impl_ _lazy_clone _local_scalar_dense
    _nested_from_padded _nested_from_padded_and_nested_example _nested_tensor_from_mask
    _nested_tensor_from_mask_left_aligned _nested_tensor_from_tensor_list _nested_tensor_size
    _nested_tensor_storage_offsets _nested_tensor_strides _pack_padded_sequence _pin_memory _reshape_copy
    _resize_output_ _stack _to_copy _to_dense _unsafe_index _unsafe_index_put _unsafe_masked_index _unsafe_view
    alias_copy as_strided_ block_diag cat channel_shuffle clone col2im complex constant_pad_nd
    copy copy_ detach_ diag_embed embedding embedding_renorm_ expand_copy fill fill_ flip gather im2col index
    index_copy index_copy_ index_fill index_fill_ index_put index_put_ index_select int_repr is_pinned is_same_size
    is_set_to lift lift_fresh lift_fresh_copy masked_fill masked_fill_ masked_scatter masked_scatter_ masked_select
    narrow_copy nonzero nonzero_static permute_copy pixel_shuffle pixel_unshuffle put put_ reflection_pad1d
    reflection_pad2d reflection_pad3d repeat repeat_interleave replication_pad1d replication_pad2d replication_pad3d
    resize_ resize_as_ roll rot90 scatter scatter_ select_scatter set_ slice_scatter split_copy
    split_with_sizes_copy squeeze_ stack t_ take to_padded_tensor transpose_ tril tril_ triu triu_ unbind_copy
    unfold_copy unsafe_split unsafe_split_with_sizes unsqueeze_ upsample_bilinear2d upsample_linear1d upsample_nearest1d
    upsample_nearest2d upsample_nearest3d upsample_trilinear3d view_copy zero zero_
"""
# sums, norms and products along a dimension included: they add or multiply, they do not do both
_REDUCING = """
    _aminmax _assert_async _assert_scalar _is_all_true _is_any_true _unique _unique2 all allclose amax amin aminmax
    any argmax argmin bincount bucketize count_nonzero cummax cummin cumprod cumprod_ cumsum cumsum_ equal eq_ ge_
    gt_ histc index_add index_add_ index_reduce isin kthvalue le_ linalg_vector_norm linalg__powsum logcumsumexp
    logsumexp lt_ max mean median min mode nanmedian nansum ne_ norm prod scatter_add scatter_add_ scatter_reduce
    scatter_reduce_ searchsorted sort std std_mean sum topk unique_consecutive unique_dim unique_dim_consecutive var
    var_mean
"""
# elementwise without the pointwise tag, normalisation, pooling, dropout. The gates of _thnn_fused_*_cell are elementwise:
# their matrix products run, and count, as mm before them.
_ELEMENTWISE = """
    _add_relu _add_relu_ _adaptive_avg_pool2d _adaptive_avg_pool3d _batch_norm_no_update _batch_norm_with_update
    _fused_dropout _fused_rms_norm _log_softmax _masked_scale _masked_softmax _native_batch_norm_legit
    _native_batch_norm_legit_no_training _nested_tensor_softmax_with_shape _prelu_kernel _safe_softmax _softmax
    _thnn_fused_gru_cell _thnn_fused_lstm_cell _transform_bias_rescale_qkv _weight_norm_interface abs_
    adaptive_max_pool2d adaptive_max_pool3d avg_pool2d avg_pool3d celu_ copysign_ cudnn_batch_norm elu_ floor_divide
    floor_divide_ gelu_ glu hardsigmoid_ hardswish hardswish_ hardtanh_ heaviside_ leaky_relu leaky_relu_
    log_sigmoid_forward max_pool2d_with_indices max_pool3d_with_indices mish_ native_batch_norm native_group_norm
    native_layer_norm polar renorm renorm_ rrelu_with_noise rrelu_with_noise_ rsub squeeze_copy threshold_ xlogy_
    __irshift__
"""
_QUANTISING = """
    _empty_affine_quantized _empty_per_channel_affine_quantized _make_per_channel_quantized_tensor
    _make_per_tensor_quantized_tensor dequantize fake_quantize_per_channel_affine_cachemask
    fake_quantize_per_tensor_affine_cachemask _fake_quantize_learnable_per_channel_affine
    _fake_quantize_learnable_per_tensor_affine _fake_quantize_per_tensor_affine_cachemask_tensor_qparams
    q_per_channel_axis q_per_channel_scales q_per_channel_zero_points q_scale q_zero_point qscheme
    quantize_per_channel quantize_per_tensor quantize_per_tensor_dynamic quantized_max_pool1d quantized_max_pool2d
"""
_LOSSES = """
    _ctc_loss _cudnn_ctc_loss binary_cross_entropy binary_cross_entropy_with_logits huber_loss mse_loss
    nll_loss2d_forward nll_loss_forward smooth_l1_loss soft_margin_loss
"""
_QUANTIZED = """
    add add_relu add_scalar batch_norm batch_norm1d batch_norm2d cat cat_relu clamp elu embedding_4bit
    embedding_byte group_norm hardswish instance_norm layer_norm leaky_relu linear_unpack max_pool1d max_pool2d mul
    mul_relu mul_scalar prelu relu6 sigmoid softmax threshold
"""

NO_MACS: frozenset[str] = frozenset(
    [
        f"aten.{name}"
        for group in (_MAKING, _MOVING, _REDUCING, _ELEMENTWISE, _QUANTISING, _LOSSES)
        for name in group.split()
    ]
    + [f"quantized.{name}" for name in _QUANTIZED.split()]
    + ["asrcompress.enter_integers", "asrcompress.leave_integers"]  # modules/boundary.py: rounding and rescaling
    + [f"profiler._record_function_{name}" for name in ("enter", "enter_new", "exit")]
)


def does_no_macs(op: Any, name: str) -> bool:
    """Whether an operation (a torch OpOverload called `name`, such as "aten.add") is known to do no MACs."""
    return name in NO_MACS or (op.namespace == "aten" and (torch.Tag.pointwise in op.tags or op.is_view))
