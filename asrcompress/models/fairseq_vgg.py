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
from importlib.util import find_spec, module_from_spec, spec_from_file_location
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

from torch import nn

from asrcompress.errors import AsrCompressError
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

    What `arguments` leaves out is the architecture's default. Weights are random. The weight norm of
    the decoder's convolutions is folded: there is one `weight` instead of a direction and a length.
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
        for module in built.modules():
            if hasattr(module, "weight_g"):
                nn.utils.remove_weight_norm(module)
    return built.eval()
