"""A checkpoint that Fairseq loads: float32 weights, arguments, dictionary. Weights are dequantized, and the names say so."""

from __future__ import annotations

from asrcompress.errors import AsrCompressError
from asrcompress.exporters import Exported, Folder, Subject

DEFAULT_SUFFIX = ".dequantized"


def export(subject: Subject, files: Folder) -> Exported:
    """Write the checkpoint."""
    raise AsrCompressError(f"{subject.path}: {subject.spec.family} is a family that Fairseq does not know")
