"""asrcompress: compresses trained speech-recognition checkpoints; what is on disk is what is measured.

Importing the package loads nothing heavy; `load` brings torch in when it is called.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"
__all__ = ["AsrCompressError", "__version__", "load"]

from asrcompress.errors import AsrCompressError

if TYPE_CHECKING:
    from pathlib import Path


def load(path: str | Path, *, device: str = "cpu") -> Any:
    """Give back the torch module that an artifact (or a checkpoint) holds, in eval mode.

    Args:
        path: an artifact written by `asrcompress quantize`, or any checkpoint the tool reads.
        device: where the module's tensors go.

    Returns:
        The `torch.nn.Module`; a packed weight stays packed inside its integer module.

    Raises:
        AsrCompressError: the file cannot be read; the message names it and the way out.
    """
    from asrcompress.ops.load import load_model

    return load_model(path, device=device).module
