"""Who bench_encoder.py compares: name -> a function that makes it ready and gives what is run.

Every contestant has the same weights and gets the same input. Peers are set up as their own documentation shows for
a model of linear layers on a CPU; where that leaves a choice, as what runs faster (ONNX Runtime: int8 rather than uint8 weights,
which take twice as long here, and convolutions left in float). What is not installed, or does not run, says so in the table.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from tests.bench.encoder_models import FairseqEncoder, PlainEncoder

Run = Callable[[], Tensor]


@dataclass(frozen=True)
class Case:
    """One size: the checkpoint, what is fed, and where files may go."""

    checkpoint: Path
    folder: Path
    x: Tensor
    part: str

    def fairseq(self) -> FairseqEncoder:
        """The float encoder as `eval` loads it."""
        from asrcompress.ops.load import load_model

        return FairseqEncoder(load_model(self.checkpoint).module.encoder, self.part).eval()

    def plain(self) -> PlainEncoder:
        """The same in plain modules."""
        from asrcompress.ops.load import load_model

        return copy.deepcopy(PlainEncoder(load_model(self.checkpoint).module.encoder, self.part)).eval()


def _of(module: nn.Module, x: Tensor) -> Run:
    def run() -> Tensor:
        with torch.inference_mode():
            out: Tensor = module(x)
        return out

    return run


def _artifact(level: str, num_bits: int = 8) -> Callable[[Case], Run]:
    def make(case: Case) -> Run:
        from asrcompress.ops.load import load_model
        from asrcompress.ops.quantize import QuantizeConfig, quantize

        path = case.folder / f"int{num_bits}.{level}.safetensors"
        if not path.exists():
            quantize(case.checkpoint, path, QuantizeConfig(num_bits=num_bits, level=level))
        return _of(FairseqEncoder(load_model(path, fused=True).module.encoder, case.part).eval(), case.x)

    return make


def _fairseq(case: Case) -> Run:
    return _of(case.fairseq(), case.x)


def _torch(case: Case) -> Run:
    return _of(case.plain(), case.x)


def _torch_compiled(case: Case) -> Run:
    return _of(torch.compile(case.plain()), case.x)


def _torch_int8(case: Case) -> Run:
    import warnings

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        module = torch.ao.quantization.quantize_dynamic(case.plain(), {nn.Linear}, dtype=torch.qint8)
    return _of(module, case.x)


def _onnx_file(case: Case) -> Path:
    """The plain encoder exported with free axes."""
    import warnings

    path = case.folder / f"{case.part}.onnx"
    if not path.exists():
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            torch.onnx.export(
                case.plain(), (case.x,), str(path), input_names=["x"], output_names=["y"], opset_version=17, dynamo=False,
                dynamic_axes={"x": {0: "batch", 1: "time"}, "y": {0: "batch", 1: "time"}},
            )  # fmt: skip
    return path


def _session(path: Path, x: Tensor) -> Run:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    feed = {"x": x.numpy()}
    return lambda: torch.from_numpy(session.run(None, feed)[0])


def _ort(case: Case) -> Run:
    return _session(_onnx_file(case), case.x)


def _ort_int8(*, per_channel: bool) -> Callable[[Case], Run]:
    def make(case: Case) -> Run:
        import logging

        from onnxruntime.quantization import QuantType, quantize_dynamic

        path = case.folder / f"{case.part}.int8{'.channel' * per_channel}.onnx"
        if not path.exists():
            logging.disable(logging.WARNING)
            quantize_dynamic(
                _onnx_file(case),
                path,
                weight_type=QuantType.QInt8,
                per_channel=per_channel,
                op_types_to_quantize=["MatMul"],
            )
            logging.disable(logging.NOTSET)
        return _session(path, case.x)

    return make


def _quanto(*, activations: bool) -> Callable[[Case], Run]:
    def make(case: Case) -> Run:
        from optimum.quanto import Calibration, freeze, qint8, quantize

        module = case.plain()
        quantize(module, weights=qint8, activations=qint8 if activations else None)
        if activations:
            with Calibration(), torch.no_grad():
                module(case.x)
        freeze(module)
        return _of_no_grad(module, case.x)

    return make


def _of_no_grad(module: nn.Module, x: Tensor) -> Run:
    """For tensor subclasses that inference mode does not know."""

    def run() -> Tensor:
        with torch.no_grad():
            out: Any = module(x)
        return out.dequantize() if hasattr(out, "dequantize") and type(out) is not Tensor else out

    return run


def _torchao(*, compiled: bool) -> Callable[[Case], Run]:
    def make(case: Case) -> Run:
        from torchao.quantization import Int8DynamicActivationInt8WeightConfig, quantize_

        module: Any = case.plain()
        quantize_(module, Int8DynamicActivationInt8WeightConfig())
        return _of_no_grad(torch.compile(module) if compiled else module, case.x)

    return make


def _compressed_tensors(case: Case) -> Run:
    from compressed_tensors.quantization import (
        QuantizationConfig,
        QuantizationStatus,
        apply_quantization_config,
        preset_name_to_scheme,
    )

    module = case.plain()
    scheme = preset_name_to_scheme("W8A8", targets=["Linear"])
    apply_quantization_config(module, QuantizationConfig(config_groups={"all": scheme}, ignore=[]))
    for layer in module.modules():
        if getattr(layer, "quantization_scheme", None):
            layer.weight_scale.data = layer.weight.data.abs().amax(dim=1, keepdim=True) / 127.5
            layer.quantization_status = QuantizationStatus.FROZEN
    return _of_no_grad(module, case.x)


CONTESTANTS: dict[str, tuple[str, Callable[[Case], Run]]] = {
    "ours": ("asrcompress, W8A8 artifact", _artifact("computed")),
    "ours-stored": ("asrcompress, int8 weights, float activations", _artifact("stored")),
    "ours-int4": ("asrcompress, W4A8 artifact", _artifact("computed", 4)),
    "torch": ("torch eager float32", _torch),
    "fairseq": ("Fairseq's own modules, float32", _fairseq),
    "torch-compiled": ("torch.compile float32", _torch_compiled),
    "torch-int8": ("torch dynamic quantization, int8", _torch_int8),
    "ort": ("ONNX Runtime float32", _ort),
    "ort-int8": ("ONNX Runtime dynamic int8", _ort_int8(per_channel=False)),
    "ort-int8-channel": ("ONNX Runtime dynamic int8, per channel", _ort_int8(per_channel=True)),
    "quanto": ("optimum-quanto int8 weights", _quanto(activations=False)),
    "quanto-w8a8": ("optimum-quanto int8 weights and activations", _quanto(activations=True)),
    "torchao": ("torchao int8 dynamic", _torchao(compiled=False)),
    "torchao-compiled": ("torchao int8 dynamic, torch.compile", _torchao(compiled=True)),
    "compressed-tensors": ("compressed-tensors W8A8, which it simulates in float", _compressed_tensors),
}
DEFAULT = tuple(name for name in CONTESTANTS if name not in ("ours-stored", "ours-int4"))
