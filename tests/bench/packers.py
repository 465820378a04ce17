"""Ways to make few bits of a float32 weight: asrcompress and what one would take instead, each tool by its own functions.

A packer takes a weight (out, in) and gives the tensors that are stored of it. Scales are per output channel, or per group of
`group_size` inputs; all round to nearest and look at no data. Needs the environment that tools/bench.sh makes.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

Packer = Callable[[Tensor], dict[str, Tensor]]
OURS = "asrcompress"


def ours(num_bits: int, group_size: int | None = None, pattern: tuple[int, int] | None = None) -> Packer:
    """What `quantize --bits` does with a weight; with a pattern it is pruned before."""
    from asrcompress.stored_weight import weight_tensors

    quantize = our_quantizer(num_bits, group_size, pattern)
    return lambda weight: weight_tensors("weight", quantize(weight))


def our_quantizer(
    num_bits: int, group_size: int | None = None, pattern: tuple[int, int] | None = None
) -> Callable[[Tensor], Any]:
    """Weight -> QuantizedWeight."""
    from asrcompress.grids import Granularity
    from asrcompress.quantizers.rtn import quantize
    from asrcompress.sparsifiers import prune

    granularity = Granularity.parse(f"per_group:{group_size}" if group_size else "per_channel")

    def run(weight: Tensor) -> Any:
        pruned = prune(weight, pattern, sparsifier="magnitude") if pattern else None
        return quantize(weight, num_bits=num_bits, granularity=granularity, pruned=pruned)

    return run


def quanto(num_bits: int, group_size: int | None = None) -> Packer:
    """optimum-quanto: symmetric at 8 bits, with a shift below."""
    from optimum.quanto import AbsmaxOptimizer, MaxOptimizer, qint2, qint4, qint8, quantize_weight

    kind = {8: qint8, 4: qint4, 2: qint2}[num_bits]

    def run(weight: Tensor) -> dict[str, Tensor]:
        if num_bits == 8:
            scale = AbsmaxOptimizer()(weight, kind, axis=0)
            packed = quantize_weight(weight, kind, axis=0, scale=scale, optimized=False)
            return {"data": packed._data, "scale": packed._scale}
        scale, shift = MaxOptimizer()(weight, kind, axis=0, group_size=group_size)
        packed = quantize_weight(weight, kind, axis=0, scale=scale, shift=shift, group_size=group_size, optimized=False)
        return {"data": packed._data._data, "scale": packed._scale, "shift": packed._shift}

    return run


def compressed_tensors(num_bits: int, group_size: int | None = None) -> Packer:
    """compressed-tensors as llm-compressor calls it: int8 as it is (int-quantized), fewer bits in int32 (pack-quantized)."""
    from compressed_tensors.compressors import IntQuantizationCompressor, PackedQuantizationCompressor
    from compressed_tensors.quantization import QuantizationArgs, QuantizationScheme, QuantizationStrategy
    from compressed_tensors.quantization.utils import calculate_qparams

    strategy = QuantizationStrategy.GROUP if group_size else QuantizationStrategy.CHANNEL
    arguments = QuantizationArgs(num_bits=num_bits, symmetric=True, strategy=strategy, group_size=group_size)
    scheme = QuantizationScheme(targets=["Linear"], weights=arguments)
    compressor: Any = IntQuantizationCompressor if num_bits == 8 else PackedQuantizationCompressor

    def run(weight: Tensor) -> dict[str, Tensor]:
        grouped = weight.unflatten(1, (-1, group_size)) if group_size else weight.unsqueeze(1)
        low, high = grouped.aminmax(dim=-1)
        scale, zero_point = calculate_qparams(low, high, arguments)
        state = {"weight": weight, "weight_scale": scale, "weight_zero_point": zero_point}
        found: dict[str, Tensor] = compressor.compress(state, scheme)
        return found

    return run


def torchao(num_bits: int, group_size: int | None = None) -> Packer:
    """torchao: below 8 bits its general weight-only configuration keeps a byte for each code."""
    from torchao.quantization import Int8WeightOnlyConfig, IntxWeightOnlyConfig, PerAxis, PerGroup, quantize_

    config: Any = Int8WeightOnlyConfig()
    if num_bits < 8 or group_size:
        granularity = PerGroup(group_size) if group_size else PerAxis(0)
        config = IntxWeightOnlyConfig(weight_dtype=getattr(torch, f"int{num_bits}"), granularity=granularity)

    def run(weight: Tensor) -> dict[str, Tensor]:
        with torch.device("meta"):
            linear = nn.Linear(weight.shape[1], weight.shape[0], bias=False)
        linear.weight = nn.Parameter(weight, requires_grad=False)
        model = nn.Sequential(linear)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            quantize_(model, config)
        packed: Any = model[0].weight
        names, _ = packed.__tensor_flatten__()
        return {name: getattr(packed, name) for name in names}

    return run


PACKERS = {
    OURS: ours,
    "optimum-quanto": quanto,
    "compressed-tensors": compressed_tensors,
    "torchao": torchao,
}


def size_bytes(tensors: dict[str, Tensor]) -> int:
    """Of the tensors' elements."""
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors.values())
