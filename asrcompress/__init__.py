"""asrcompress: compresses trained speech-recognition checkpoints; what is on disk is what is measured.

Importing the package loads nothing heavy; `load` and `swap` bring torch in when they are called.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"
__all__ = ["AsrCompressError", "__version__", "load", "swap"]

from asrcompress.errors import AsrCompressError

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path


def load(path: str | Path, *, device: str = "cpu", fused: bool = False) -> Any:
    """Give back the torch module that an artifact (or a checkpoint) holds, in eval mode.

    Args:
        path: an artifact written by `asrcompress quantize`, or any checkpoint the tool reads.
        device: where the module's tensors go.
        fused: run whole layers at once where that is faster, as `eval` does; hooks on modules inside them are not called then.

    Returns:
        The `torch.nn.Module`; a packed weight stays packed inside its integer module.

    Raises:
        AsrCompressError: the file cannot be read; the message names it and the way out.
    """
    from asrcompress.ops.load import load_model

    return load_model(path, device=device, fused=fused).module


def swap(model: Any, recipe: Any = None, *, calibrate: Callable[[Any], Any] | None = None, **options: Any) -> Any:
    """Give back an integer version of any torch module, in eval mode; `model` itself is left alone.

    Args:
        model: the `torch.nn.Module`.
        recipe: path of a TOML recipe, a `QuantizeConfig`, or None.
        calibrate: runs the module it is given on representative inputs. Level integer-only needs it; with it, BatchNorms are
            folded at every level.
        options: a recipe's options by name, which win over the recipe's: `bits=4`, `level="integer-only"`.

    Returns:
        The `torch.nn.Module`, which takes and gives what `model` does.

    Raises:
        AsrCompressError: the options do not fit the model, or part of it has no integer version; the message names it.
    """
    from asrcompress.ops.swap import swap as swap_module

    return swap_module(model, recipe, calibrate=calibrate, **options)
