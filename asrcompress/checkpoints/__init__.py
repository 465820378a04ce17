"""Reading checkpoints that others wrote, without running their code.

Reading order: record (what comes out), reader (which format is it), pickle_scan, stand_ins and
pickled (torch.save files, Fairseq's among them), fairseq_config, torch_zip and torchscript,
safetensors_file, ledger. Leaves out what the tensors mean (models/) and our own artifacts (artifact.py).
"""

from __future__ import annotations

from asrcompress.checkpoints.reader import read_checkpoint, unsafe_globals
from asrcompress.checkpoints.record import Checkpoint, tied_names

__all__ = ["Checkpoint", "read_checkpoint", "tied_names", "unsafe_globals"]
