"""Where a model computes."""

from __future__ import annotations

from itertools import chain

import torch
from torch import nn


def device_of(module: nn.Module) -> torch.device:
    """The device of a module's first parameter or buffer; cpu where it has neither.

    Its state dict is not asked: FSDP takes that for a sign that parts are to be put back, even in the middle of a pass.
    """
    first = next(chain(module.parameters(), module.buffers()), None)
    return torch.device("cpu") if first is None else first.device
