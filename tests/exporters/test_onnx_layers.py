"""Single layers as ONNX nodes, run by ONNX Runtime, against the modules that they are made from."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import onnxruntime
import pytest
import torch
from torch import Tensor, nn

from asrcompress.errors import AsrCompressError
from asrcompress.exporters.graphs import layers
from asrcompress.exporters.graphs.convolution import convolution
from asrcompress.exporters.graphs.graph import Graph
from asrcompress.grids import Granularity, QuantizedWeight
from asrcompress.modules.attend import attend
from asrcompress.modules.conv import IntegerConv
from asrcompress.modules.linear import IntegerEmbedding, IntegerLinear
from asrcompress.modules.weight import FloatWeight, IntegerWeight
from asrcompress.quantizers import get_quantizer


def run(inputs: dict[str, Tensor], write: Callable[..., str]) -> tuple[np.ndarray, Any]:
    """What the nodes that `write(graph, *names)` makes give for these inputs, and the file."""
    graph = Graph("layer", "a layer")
    names = [
        graph.input(name, value.numpy().dtype, [f"{name}{axis}" for axis in range(value.dim())]) for name, value in inputs.items()
    ]  # fmt: skip
    value = write(graph, *names)
    graph.output("out", value, np.float32, [])
    graph.outputs[0].type.tensor_type.ClearField("shape")
    model = graph.model({})
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    return session.run(None, {name: value.numpy() for name, value in inputs.items()})[0], model


def packed(shape: tuple[int, ...], num_bits: int, granularity: str, method: str) -> IntegerWeight:
    weight = torch.randn(*shape, generator=torch.Generator().manual_seed(num_bits))
    found = get_quantizer(method)(weight, num_bits=num_bits, granularity=Granularity.parse(granularity))
    assert isinstance(found, QuantizedWeight)
    return IntegerWeight(found)


def rand(*shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(9))


KINDS = [
    (8, "per_channel", "rtn"), (8, "per_group:16", "asymmetric"), (4, "per_channel", "rtn"), (4, "per_channel", "asymmetric"),
    (4, "per_group:32", "asymmetric"), (4, "per_group:8", "rtn"), (3, "per_tensor", "asymmetric"), (2, "per_channel", "asymmetric"),
    (2, "per_group:16", "asymmetric"), (1, "per_channel", "binary"),
]  # fmt: skip


@pytest.mark.parametrize(("num_bits", "granularity", "method"), KINDS)
@pytest.mark.parametrize("activations", ["none", "int8"])
def test_products_are_those_of_the_packed_layer(num_bits: int, granularity: str, method: str, activations: str) -> None:
    """On integers to the bit, but where the sums of several groups are added up."""
    module = IntegerLinear(packed((24, 96), num_bits, granularity, method), rand(24), activations=activations)
    x = rand(2, 5, 96)
    x[1, 2] = 0
    found, model = run({"x": x}, lambda graph, x: layers.linear(graph, "layer", module, x))
    exact = activations == "int8" and "group" not in granularity
    np.testing.assert_allclose(found, module(x).numpy(), rtol=0, atol=0 if exact else 2e-5)
    sizes = [len(tensor.raw_data) for tensor in model.graph.initializer]
    stored_bits = 8 if num_bits > 4 else 2 if num_bits <= 2 and "MatMulNBits" in str(model.graph.node) else 4
    assert max(sizes) <= 24 * 96 * stored_bits / 8  # 96 columns fill whole blocks


@pytest.mark.parametrize(("num_bits", "granularity", "method"), KINDS[:3] + KINDS[4:7])
def test_lookups_are_those_of_the_packed_table_and_a_tied_layer_stores_it_once(
    num_bits: int, granularity: str, method: str
) -> None:
    weight = packed((24, 96), num_bits, granularity, method)
    table, output = IntegerEmbedding(weight, padding_idx=1), IntegerLinear(weight, None)
    index = torch.tensor([[3, 0, 23], [1, 5, 5]])

    def write(graph: Graph, index: str) -> str:
        return layers.linear(graph, "output", output, layers.embedding(graph, "table", table, index))

    found, model = run({"index": index}, write)
    np.testing.assert_allclose(found, output(table(index)).numpy(), atol=2e-4)
    code_bytes = 24 * 96 if num_bits > 4 else 24 * 96 // 2
    assert [size for tensor in model.graph.initializer if (size := len(tensor.raw_data)) >= code_bytes] == [code_bytes]


@pytest.mark.parametrize("activations", ["none", "int8"])
@pytest.mark.parametrize(
    ("conv", "size"),
    [
        (nn.Conv1d(8, 6, 5, stride=2, padding=2), (11,)),
        (nn.Conv1d(8, 6, 3, dilation=2), (9,)),
        (nn.Conv2d(1, 4, (5, 20), stride=(2, 8)), (16, 45)),
        (nn.Conv2d(3, 4, 3, padding=1), (7, 6)),
        (nn.Conv1d(8, 8, 4, padding="same", groups=4), (9,)),
    ],
)
def test_convolutions_are_those_of_the_packed_layer(conv: Any, size: tuple[int, ...], activations: str) -> None:
    module = IntegerConv(conv, packed(tuple(conv.weight.shape), 8, "per_channel", "rtn"), activations=activations)
    x = rand(2, conv.in_channels, *size)
    found, _ = run({"x": x}, lambda graph, x: convolution(graph, "layer", module, x))
    np.testing.assert_allclose(found, module(x).detach().numpy(), rtol=0, atol=0 if activations == "int8" else 2e-5)


@pytest.mark.parametrize("activations", ["none", "int8"])
def test_attention_leaves_out_what_is_hidden(activations: str) -> None:
    q, k, v = rand(2, 3, 4, 8), rand(2, 3, 6, 8) + 1, rand(2, 3, 6, 8) * 2
    seen = torch.arange(6) < torch.tensor([[6], [4]])

    def write(graph: Graph, q: str, k: str, v: str, seen: str) -> str:
        return layers.attend(graph, q, k, v, activations, layers.hidden_keys(graph, seen))

    found, _ = run({"q": q, "k": k, "v": v, "seen": seen}, write)
    expected, _ = attend(q, k, v, activations=activations, padding=~seen)
    np.testing.assert_allclose(found, expected.numpy(), atol=1e-5 if activations == "none" else 2e-2)


def test_values_of_zero_have_a_scale_of_one() -> None:
    """It is folded into the weights before they are rounded, so that it decides what they are rounded to."""
    q, k, v = rand(1, 1, 3, 8), rand(1, 1, 4, 8), rand(1, 1, 4, 8) / 50
    v[:, :, 1] = 0
    found, _ = run({"q": q, "k": k, "v": v}, lambda graph, q, k, v: layers.attend(graph, q, k, v, "int8", None))
    np.testing.assert_allclose(found, attend(q, k, v, activations="int8")[0].numpy(), rtol=0, atol=1e-6)


def test_float_layers_are_written_too() -> None:
    linear, conv = nn.Linear(6, 4), nn.Conv1d(4, 3, 3, padding=1)
    x = rand(2, 5, 6)

    def write(graph: Graph, x: str) -> str:
        return convolution(graph, "conv", conv, graph.transpose(layers.linear(graph, "linear", linear, x), 0, 2, 1))

    with torch.no_grad():
        expected = conv(linear(x).transpose(1, 2))
    np.testing.assert_allclose(run({"x": x}, write)[0], expected.numpy(), atol=1e-5)


def test_what_has_no_form_is_said_in_one_line() -> None:
    conv = nn.Conv1d(2, 2, 3, padding=1, padding_mode="reflect")
    with pytest.raises(AsrCompressError, match="conv: padding by reflect has no ONNX form"):
        run({"x": rand(1, 2, 5)}, lambda graph, x: convolution(graph, "conv", conv, x))
    with pytest.raises(AsrCompressError, match="activation function leaky_relu has no ONNX form"):
        run({"x": rand(1, 2)}, lambda graph, x: layers.activation(graph, torch.nn.functional.leaky_relu, x))
    assert FloatWeight(conv.weight).shape == (2, 2, 3)


def test_attention_with_keys_of_its_own_is_refused() -> None:
    from fairseq.modules import MultiheadAttention

    module = MultiheadAttention(8, 2, self_attention=True, add_bias_kv=True)
    with pytest.raises(AsrCompressError, match="self_attn: attention with bias_k has no ONNX form"):
        run({"x": rand(1, 3, 8)}, lambda graph, x: layers.attention(graph, "self_attn", module, x)[0])
