"""Fairseq's VGG transformers, which live in its examples and not in its package.

examples/speech_recognition/models/vggtransformer.py registers its models when it is imported, and a
second import under another name fails. Its package cannot be imported whole: it pulls in criteria,
tasks and an `examples` package that an installed Fairseq does not have. So the one file is loaded by
path, and put under both names that anyone imports it by.
"""

from __future__ import annotations

import argparse
import importlib
import sys
from functools import cache
from importlib.util import find_spec, module_from_spec, spec_from_file_location
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from asrcompress.errors import AsrCompressError
from asrcompress.integers.tensor import same_grid
from asrcompress.models.fairseq_adapter import INSTALL, import_fairseq, make_dictionary, quiet

PACKAGES = ("examples", "fairseq.examples")
FILES = (
    "speech_recognition.data.data_utils",
    "speech_recognition.models.vggtransformer",
)  # the second imports the first


def import_vggtransformer() -> ModuleType:
    """The module of Fairseq's VGG transformers: always the same one, whoever imported it first and by which name.

    Raises:
        AsrCompressError: Fairseq is not installed, or without its examples.
    """
    import_fairseq()
    with quiet():
        for file in FILES:
            names = [f"{package}.{file}" for package in PACKAGES]
            module = next((sys.modules[name] for name in names if name in sys.modules), None) or _load(file, names)
            for name in names:
                sys.modules.setdefault(name, module)
        if "examples" not in sys.modules and find_spec("examples") is None:
            sys.modules["examples"] = importlib.import_module("fairseq.examples")
    return module


def _load(file: str, names: list[str]) -> ModuleType:
    """Run one file of the examples as a module that both names stand for; its parents are not imported."""
    import fairseq

    path = Path(str(fairseq.__file__)).parent.joinpath("examples", *file.split(".")).with_suffix(".py")
    spec = spec_from_file_location(names[0], path)
    if not path.is_file() or spec is None or spec.loader is None:
        raise AsrCompressError(f"Fairseq is installed without {path.name} of its examples; install it: {INSTALL}")
    module = module_from_spec(spec)
    sys.modules.update(dict.fromkeys(names, module))
    try:
        spec.loader.exec_module(module)
    except BaseException as error:
        for name in names:
            sys.modules.pop(name, None)
        if isinstance(error, ImportError):
            raise AsrCompressError(
                f"Fairseq's {path.name} cannot be imported ({error}); install it: {INSTALL}"
            ) from error
        raise
    return module


def build_vgg(arguments: dict[str, Any], symbols: list[str], *, is_encoder: bool) -> nn.Module:
    """VGGTransformerModel, or VGGTransformerEncoderModel, with these arguments, which must be checked ones.

    What `arguments` leaves out is the architecture's default. Weights are random. The decoder's
    convolutions become `CausalConv`s without weight norm.
    """
    vgg = import_vggtransformer()
    namespace = argparse.Namespace(**arguments)
    architecture = vgg.base_architecture_enconly if is_encoder else vgg.base_architecture
    with quiet():
        architecture(namespace)
        for name, value in vars(namespace).items():
            if isinstance(value, (tuple, list)):  # a default that Fairseq forgot to write as a string
                setattr(namespace, name, repr(value))
        model = vgg.VGGTransformerEncoderModel if is_encoder else vgg.VGGTransformerModel
        built: nn.Module = model.build_model(namespace, SimpleNamespace(target_dictionary=make_dictionary(symbols)))
        for name, module in list(built.named_modules()):
            if isinstance(module, vgg.LinearizedConvolution):
                built.set_submodule(name, _causal_conv()(module))
    return built.eval()


def whole_vgg_arguments(arguments: dict[str, Any], *, is_encoder: bool) -> dict[str, Any]:
    """The arguments with the architecture's defaults for what they leave out; layer configurations as literals."""
    vgg = import_vggtransformer()
    namespace = argparse.Namespace(**arguments)
    (vgg.base_architecture_enconly if is_encoder else vgg.base_architecture)(namespace)
    return {name: repr(v) if isinstance(v, (tuple, list)) else v for name, v in vars(namespace).items()}


def initialise(module: nn.Module) -> None:
    """Draw the decoder's convolutions as Fairseq's LinearizedConv1d does: normal, of variance 4 / fan-in, without bias."""
    for conv in [found.conv for found in module.modules() if isinstance(found, _causal_conv())]:
        nn.init.normal_(conv.weight, std=(4.0 / (conv.in_channels * conv.kernel_size[0])) ** 0.5)
        nn.init.zeros_(conv.bias)


@cache
def _causal_conv() -> Any:
    """The class CausalConv: Fairseq's decoder tells by a base class which of its layers take an incremental state."""
    from fairseq.modules import LinearizedConvolution

    class CausalConv(LinearizedConvolution):  # type: ignore[misc,unused-ignore]
        """Fairseq's LinearizedConvolution around an ordinary Conv1d, which has an integer twin.

        Weight (out, in, kernel) instead of (kernel, in, out). The cache holds the frames that the kernel reaches
        back to, (batch, in, kernel - 1); Fairseq's beam search reorders it.
        """

        def __init__(self, module: Any) -> None:
            nn.Module.__init__(self)
            self.init_incremental_state()
            self.conv = nn.Conv1d(module.in_channels, module.out_channels, module.kernel_size)

        def forward(self, input: Tensor, incremental_state: Any = None) -> Tensor:
            """(time, batch, in) -> (time, batch, out); one step with an incremental state: (batch, 1, in) -> (batch, 1, out)."""
            reach = self.conv.kernel_size[0] - 1
            if incremental_state is None:
                out: Tensor = self.conv(F.pad(input.permute(1, 2, 0), (reach, 0)))
                return out.permute(2, 0, 1)
            frame = input.transpose(1, 2)
            past = self._get_input_buffer(incremental_state)
            window = F.pad(frame, (reach, 0)) if past is None else same_grid(torch.cat, [past, frame], 2)
            self._set_input_buffer(incremental_state, window[:, :, 1:])
            out = self.conv(window)
            return out.transpose(1, 2)

        __repr__ = nn.Module.__repr__

    return CausalConv
