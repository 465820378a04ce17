"""Calls of the kernels on tensors, and when they may be called."""

from __future__ import annotations

import ctypes

import torch
from torch import Tensor

from asrcompress.kernels.build import library
from asrcompress.kernels.weights import PanelWeight


def usable(*tensors: Tensor) -> bool:
    """Whether these tensors can be handed to the kernels: float32 on CPU, nothing to differentiate, nobody tracing.

    Whoever traces operators, as the audit of a run does, sees torch's own instead, with the same results.
    """
    if (
        torch._C._len_torch_dispatch_stack()
        or torch._C._get_tracing_state() is not None
        or torch.compiler.is_compiling()
    ):
        return False
    for tensor in tensors:
        if tensor.dtype != torch.float32 or not tensor.is_cpu or (tensor.requires_grad and torch.is_grad_enabled()):
            return False
        if type(tensor) not in (Tensor, torch.nn.Parameter):
            return False
    return library() is not None


def linear(weight: PanelWeight, x: Tensor, *, relu: bool = False) -> Tensor:
    """x (rows, in) float32 -> x W^T + b (rows, out): rows go to int8 on grids of their own; `usable` said yes.

    Rows may overlap in memory, as patches of a convolution do, but each must lie in one piece.
    """
    if x.stride(1) != 1 and x.shape[1] > 1:
        x = x.contiguous()
    out = torch.empty((x.shape[0], weight.shape[0]))
    failed = loaded().asrc_linear(
        weight.reference, ctypes.c_void_p(x.data_ptr()), ctypes.c_int64(x.stride(0)), ctypes.c_int64(x.shape[0]),
        int(relu), ctypes.c_void_p(out.data_ptr()), torch.get_num_threads(),
    )  # fmt: skip
    check(failed)
    return out


def check(failed: int) -> None:
    """Raise where a kernel could get no memory."""
    if failed:
        raise MemoryError("no memory for the rows of a product")


def loaded() -> ctypes.CDLL:
    """The library, which `usable` has found."""
    found = library()
    if found is None:
        raise RuntimeError("the kernels are not there")
    return found
