"""Every rule against a count worked out by hand, with gradients, without, and in inference mode."""

from __future__ import annotations

import warnings

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from asrcompress.errors import AsrCompressError
from asrcompress.metrics.cost import count_macs
from asrcompress.metrics.mac_rules import RULES
from asrcompress.metrics.no_macs import NO_MACS

T, B, W, H = 5, 2, 12, 8  # time, batch, input width, hidden size
MAT, BATCHED, VEC = torch.ones(6, 7), torch.ones(3, 6, 7), torch.ones(7)
INT8 = torch.ones(32, 16, dtype=torch.int8)
SEQUENCE = torch.ones(T, B, W)
QUERY, KEY, VALUE = torch.ones(2, 4, 5, 8), torch.ones(2, 4, 9, 8), torch.ones(2, 4, 9, 8)

CASES = {
    "mm": (lambda: MAT @ MAT.T, 6 * 7 * 6),
    "bmm": (lambda: torch.bmm(BATCHED, BATCHED.transpose(1, 2)), 3 * 6 * 7 * 6),
    "matmul broadcast": (lambda: torch.ones(4, 3, 6, 7) @ MAT.T, 4 * 3 * 6 * 7 * 6),
    "addmm": (lambda: torch.addmm(torch.ones(6), MAT, MAT.T), 6 * 7 * 6),
    "addmm_": (lambda: torch.ones(6, 6).addmm_(MAT, MAT.T), 6 * 7 * 6),
    "baddbmm": (lambda: torch.baddbmm(torch.ones(1), BATCHED, BATCHED.transpose(1, 2)), 3 * 6 * 7 * 6),
    "addbmm": (lambda: torch.addbmm(torch.ones(6, 6), BATCHED, BATCHED.transpose(1, 2)), 3 * 6 * 7 * 6),
    "mv": (lambda: MAT @ VEC, 6 * 7),
    "addmv": (lambda: torch.addmv(torch.ones(6), MAT, VEC), 6 * 7),
    "dot": (lambda: VEC @ VEC, 7),
    "vdot": (lambda: torch.vdot(VEC, VEC), 7),
    "addr": (lambda: torch.addr(torch.ones(7, 7), VEC, VEC), 49),
    "einsum": (lambda: torch.einsum("btd,bsd->bts", BATCHED, BATCHED), 3 * 6 * 6 * 7),
    "int bmm": (lambda: torch.bmm(BATCHED.int(), BATCHED.int().transpose(1, 2)), 3 * 6 * 7 * 6),
    "_int_mm": (lambda: torch._int_mm(INT8, INT8.T.contiguous()), 32 * 16 * 32),
    "_int_mm by keyword": (lambda: torch._int_mm(INT8, mat2=INT8.T.contiguous()), 32 * 16 * 32),
    "_weight_int8pack_mm": (
        lambda: torch._weight_int8pack_mm(INT8.bfloat16(), INT8, torch.ones(32).bfloat16()),
        32 * 16 * 32,
    ),
    "linear, 3-D, bias": (lambda: F.linear(SEQUENCE, torch.ones(H, W), torch.ones(H)), T * B * W * H),
    "linear, 1-D": (lambda: F.linear(torch.ones(W), torch.ones(H, W)), W * H),
    "conv1d, bias": (lambda: F.conv1d(torch.ones(2, 6, 20), torch.ones(4, 6, 5), torch.ones(4)), 2 * 4 * 16 * 6 * 5),
    "conv1d int32": (lambda: F.conv1d(torch.ones(1, 2, 9).int(), torch.ones(3, 2, 3).int()), 3 * 7 * 2 * 3),
    "conv1d stride, padding": (
        lambda: F.conv1d(torch.ones(1, 6, 20), torch.ones(4, 6, 5), stride=2, padding=2),
        4 * 10 * 6 * 5,
    ),
    "conv1d padding='same'": (lambda: F.conv1d(torch.ones(1, 6, 20), torch.ones(4, 6, 4), padding="same"), 4 * 20 * 24),
    "conv1d dilated": (lambda: F.conv1d(torch.ones(1, 6, 20), torch.ones(4, 6, 5), dilation=2), 4 * 12 * 6 * 5),
    "conv1d grouped": (lambda: F.conv1d(torch.ones(2, 6, 20), torch.ones(4, 3, 5), groups=2), 2 * 4 * 16 * 3 * 5),
    "conv1d depthwise": (lambda: F.conv1d(torch.ones(2, 6, 20), torch.ones(6, 1, 5), groups=6), 2 * 6 * 16 * 5),
    "conv2d": (lambda: F.conv2d(torch.ones(2, 3, 8, 9), torch.ones(4, 3, 3, 2)), 2 * 4 * 6 * 8 * 3 * 3 * 2),
    "conv3d": (lambda: F.conv3d(torch.ones(1, 2, 4, 4, 4), torch.ones(3, 2, 2, 2, 2)), 3 * 27 * 2 * 8),
    # transposed: every input element meets every output channel of its group at every tap
    "conv_transpose1d": (lambda: F.conv_transpose1d(torch.ones(2, 6, 20), torch.ones(6, 4, 5)), 2 * 6 * 20 * 4 * 5),
    "conv_transpose1d grouped": (
        lambda: F.conv_transpose1d(torch.ones(2, 6, 20), torch.ones(6, 2, 5), stride=3, groups=2),
        2 * 6 * 20 * 2 * 5,
    ),
    "conv_tbc": (lambda: torch.conv_tbc(torch.ones(20, 2, 6), torch.ones(5, 6, 4), torch.ones(4)), 16 * 2 * 4 * 6 * 5),
    "attention": (lambda: F.scaled_dot_product_attention(QUERY, KEY, VALUE), 2 * 4 * 5 * 9 * (8 + 8)),
    "attention, causal": (
        lambda: F.scaled_dot_product_attention(QUERY, QUERY, QUERY, is_causal=True),
        2 * 4 * 5 * 5 * (8 + 8),
    ),
    "attention, mask": (
        lambda: F.scaled_dot_product_attention(QUERY, KEY, VALUE, attn_mask=torch.ones(5, 9).bool()),
        2 * 4 * 5 * 9 * (8 + 8),
    ),
    "attention, dropout (unfused)": (
        lambda: F.scaled_dot_product_attention(QUERY, KEY, VALUE, dropout_p=0.5),
        2 * 4 * 5 * 9 * (8 + 8),
    ),
    "attention, fewer key heads": (
        lambda: F.scaled_dot_product_attention(QUERY, KEY[:, :2], VALUE[:, :2], enable_gqa=True),
        2 * 4 * 5 * 9 * (8 + 8),
    ),
    "attention, other value width": (
        lambda: F.scaled_dot_product_attention(QUERY, KEY, torch.ones(2, 4, 9, 6)),
        2 * 4 * 5 * 9 * (8 + 6),
    ),
    "gru": (lambda: nn.GRU(W, H, 2)(SEQUENCE), T * B * 3 * H * ((W + H) + (H + H))),
    "gru bidirectional": (lambda: nn.GRU(W, H, 2, bidirectional=True)(SEQUENCE), T * B * 6 * H * ((W + H) + 3 * H)),
    "gru packed": (
        lambda: nn.GRU(W, H)(nn.utils.rnn.pack_padded_sequence(SEQUENCE, [5, 3])),
        (5 + 3) * 3 * H * (W + H),
    ),
    "lstm (mkldnn)": (lambda: nn.LSTM(W, H, 2)(SEQUENCE), T * B * 4 * H * ((W + H) + (H + H))),
    "lstm without bias": (lambda: nn.LSTM(W, H, bias=False)(SEQUENCE), T * B * 4 * H * (W + H)),
    "lstm bidirectional": (lambda: nn.LSTM(W, H, 2, bidirectional=True)(SEQUENCE), T * B * 8 * H * ((W + H) + 3 * H)),
    "lstm packed": (
        lambda: nn.LSTM(W, H)(nn.utils.rnn.pack_padded_sequence(SEQUENCE, [5, 3])),
        (5 + 3) * 4 * H * (W + H),
    ),
    "lstm projected": (lambda: nn.LSTM(W, H, proj_size=4)(SEQUENCE), T * B * (4 * H * (W + 4) + H * 4)),
    "rnn": (lambda: nn.RNN(W, H)(SEQUENCE), T * B * H * (W + H)),
    "gru cell": (lambda: nn.GRUCell(W, H)(SEQUENCE[0]), B * 3 * H * (W + H)),
    "lstm cell": (lambda: nn.LSTMCell(W, H)(SEQUENCE[0]), B * 4 * H * (W + H)),
    # nothing to multiply and accumulate
    "elementwise": (lambda: F.gelu(MAT) * MAT + torch.sigmoid(MAT), 0),
    "softmax, norms": (lambda: F.layer_norm(F.log_softmax(MAT, -1), (7,)) + F.group_norm(BATCHED, 2).sum(), 0),
    "embedding": (lambda: F.embedding(torch.tensor([1, 2]), MAT), 0),
    "batch norm": (lambda: nn.BatchNorm1d(6)(BATCHED), 0),
    "pooling, padding": (lambda: F.max_pool1d(F.avg_pool1d(F.pad(BATCHED, (1, 1), "reflect"), 2), 2), 0),
    "record_function": (
        lambda: torch.autograd.profiler.record_function("part").__enter__().__exit__(None, None, None),
        0,
    ),
    "moving": (lambda: torch.cat([MAT, MAT.roll(1)]).flip(0).contiguous().index_select(0, torch.tensor([1])), 0),
}


@pytest.mark.parametrize("context", [torch.enable_grad, torch.no_grad, torch.inference_mode])
@pytest.mark.parametrize("name", CASES)
def test_macs_by_hand(name, context):
    run, expected = CASES[name]
    with context():
        assert count_macs(nn.Identity(), run).total == expected


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("context", [torch.enable_grad, torch.no_grad, torch.inference_mode])
@pytest.mark.parametrize("need_weights", [True, False])
@pytest.mark.parametrize("keys", [5, 9])
def test_torch_attention_by_hand(training, context, need_weights, keys):
    batch, queries, width = 3, 5, 16
    module = nn.MultiheadAttention(width, 4, batch_first=True).train(training)
    query = torch.ones(batch, queries, width)
    key = query if keys == queries else torch.ones(batch, keys, width)
    with context():
        count = count_macs(module, lambda: module(query, key, key, need_weights=need_weights))
    assert count.total == batch * (2 * (queries + keys) * width**2 + 2 * queries * keys * width)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("dtype", [torch.qint8, torch.float16])
@pytest.mark.parametrize(
    ("layer", "macs"),
    [
        (nn.Linear(W, H), T * B * W * H),
        (nn.GRU(W, H, 2, bidirectional=True), T * B * 6 * H * ((W + H) + 3 * H)),
        (nn.LSTM(W, H), T * B * 4 * H * (W + H)),
    ],
)
def test_torch_dynamic_quantization_counts_like_its_float_layer(layer, macs, dtype):
    model = torch.ao.quantization.quantize_dynamic(nn.Sequential(layer), {type(layer)}, dtype=dtype)
    count = count_macs(model, lambda: model(SEQUENCE))
    expected = ["qint8", "quint8"] if dtype is torch.qint8 else ["float16", "float32"]
    assert count.by_module == {"0": macs}
    assert count.operand_dtypes == {"0": expected}


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(("cell", "gates"), [(nn.GRUCell, 3), (nn.LSTMCell, 4), (nn.RNNCell, 1)])
def test_torch_dynamic_cells(cell, gates):
    model = torch.ao.quantization.quantize_dynamic(nn.Sequential(cell(W, H)), {cell})
    assert count_macs(model, lambda: model(SEQUENCE[0])).total == B * gates * H * (W + H)


@pytest.mark.parametrize(("groups", "transposed"), [(1, False), (2, False), (1, True)])
def test_torch_static_quantized_convolution(groups, transposed):
    quantized = torch.ao.nn.quantized
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        if transposed:
            layer, expected = quantized.ConvTranspose1d(6, 4, 5), 2 * 6 * 20 * 4 * 5
        else:
            layer, expected = quantized.Conv1d(6, 4, 5, groups=groups), 2 * 4 * 16 * (6 // groups) * 5
        data = torch.quantize_per_tensor(torch.ones(2, 6, 20), 0.1, 0, torch.quint8)
        count = count_macs(layer, lambda: layer(data))
    assert count.total == expected
    assert count.operand_dtypes == {"": ["qint8", "quint8"]}


def test_fused_attention_whose_values_have_another_width():
    macs, dtypes = RULES["aten._scaled_dot_product_efficient_attention"](
        {"query": torch.ones(2, 4, 5, 8), "key": torch.ones(2, 4, 9, 8), "value": torch.ones(2, 4, 9, 6).half()}, None
    )
    assert macs == 2 * 4 * (5 * 9 * 8 + 5 * 9 * 6)
    assert dtypes == ("float32", "float32", "float16")


def test_fused_attention_over_other_keys_than_queries():
    batch, queries, keys, width = 3, 5, 9, 16
    args = {"query": torch.ones(batch, queries, width), "key": torch.ones(batch, keys, width), "embed_dim": width}
    macs, _ = RULES["aten._native_multi_head_attention"]({**args, "qkv_weight": torch.ones(1)}, None)
    assert macs == batch * (2 * (queries + keys) * width**2 + 2 * queries * keys * width)


def test_cudnn_lists_weights_and_biases_of_all_layers_together():
    layer = nn.GRU(W, H, 2)
    macs, _ = RULES["aten._cudnn_rnn"]({"input": SEQUENCE, "weight": list(layer.parameters())}, None)
    assert macs == T * B * 3 * H * ((W + H) + (H + H))


def test_a_strangers_operation_is_not_trusted_for_its_pointwise_tag():
    library = torch.library.Library("asrcompress_tagged", "FRAGMENT")
    library.define("product(Tensor x) -> Tensor", tags=(torch.Tag.pointwise,))
    library.impl("product", lambda x: torch.from_numpy(x.numpy() @ x.numpy()), "CPU")
    with torch.no_grad(), pytest.raises(AsrCompressError, match=r"asrcompress_tagged\.product"):
        count_macs(nn.Identity(), lambda: torch.ops.asrcompress_tagged.product(torch.ones(3, 3)))


def test_no_operation_is_in_both_tables():
    assert not NO_MACS & set(RULES)


def test_the_tables_name_operations_that_exist():
    for name in {*RULES, *NO_MACS}:
        namespace, op = name.split(".")
        assert getattr(getattr(torch.ops, namespace), op).overloads(), name
