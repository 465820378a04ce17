"""What the thop package says a model costs, for comparing with published tables; the true count is cost.py.

thop matches exact module types, counts others as zero, leaves out attention products, and adds elementwise work of a
GRU. Older versions also counted one MAC per output element for a convolution's bias: "thop-conv-bias".
"""

from __future__ import annotations

import contextlib
import copy
import io
import warnings
from typing import Any

from torch import Tensor, nn

from asrcompress.errors import AsrCompressError

CONVENTIONS = ("thop", "thop-conv-bias")
_CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)


def thop_macs(model: nn.Module, inputs: tuple[Any, ...], *, convention: str = "thop") -> int:
    """Count MACs as thop does, in eval mode, on a copy: the model gets no buffers or hooks, nothing is printed.

    Args:
        model: called as `model(*inputs)`.
        inputs: as the model takes them; the batch is counted whole.
        convention: "thop" (what the installed version says) or "thop-conv-bias" (as older versions counted).

    Raises:
        AsrCompressError: an unknown convention, or a model that thop cannot run; the cause is given.
    """
    if convention not in CONVENTIONS:
        raise AsrCompressError(f"MACs convention '{convention}' is not known; choose from {', '.join(CONVENTIONS)}")
    with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
        warnings.simplefilter("ignore")
        import thop
        from thop.profile import register_hooks

        def with_bias(module: nn.Module, args: tuple[Any, ...], output: Tensor) -> None:
            register_hooks[type(module)](module, args, output)
            if module.bias is not None:
                module.total_ops += output.numel()  # type: ignore[operator,assignment]

        rules = dict.fromkeys(_CONVOLUTIONS, with_bias) if convention == "thop-conv-bias" else None
        try:
            total, _ = thop.profile(copy.deepcopy(model), inputs=inputs, custom_ops=rules, verbose=False)
        except Exception as error:
            cause = f"{type(error).__name__}: {error}"
            raise AsrCompressError(f"thop cannot count this model ({cause}); use the true count") from error
    return int(total)
