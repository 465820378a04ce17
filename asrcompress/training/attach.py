"""Stored weights in the place of a float model's own, for training, and what is to be stored out again.

The modules stay the family's own: whoever asks for a weight, fused attention included (`F.multi_head_attention_forward` takes
`q_proj.weight` and never calls q_proj), gets what the file would hold. Tied weights stay one.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from asrcompress.training.grid import TrainedWeight

ORIGINAL, STORED = "original", "0"  # torch's names within a parametrization


def attach(model: nn.Module, names: Mapping[str, Sequence[str]], weights: Mapping[str, TrainedWeight]) -> nn.Module:
    """Put `weights` into `model`, in place.

    Args:
        model: float; its weights are where training starts.
        names: of each weight, all names that its parameter has, the first of which keys `weights`.
        weights: what they become.
    """
    for first, aliases in names.items():
        for name in aliases:
            owner, _, kind = name.rpartition(".")
            parametrize.register_parametrization(model.get_submodule(owner), kind, weights[first])
    return freeze_noise(
        model
    )  # recurrent modules keep a list of their weights besides, which torch renews as they change


def freeze_noise(model: nn.Module) -> nn.Module:
    """No dropout and no moving statistics, so that neither ranks nor batches change what an update does."""
    model.eval()
    for module in model.modules():
        if isinstance(module, nn.RNNBase):
            module.train()  # cuDNN has no gradient in eval mode
            module.dropout = 0.0
            module.forward = partial(_in_float, module.forward)
    return model


def original_name(name: str) -> str:
    """Where the float weight behind a stored one is, in the model's state dict."""
    owner, _, kind = name.rpartition(".")
    return f"{owner}.parametrizations.{kind}.{ORIGINAL}" if owner else f"parametrizations.{kind}.{ORIGINAL}"


def plain_name(name: str) -> str | None:
    """The float model's name of a parameter of an attached model; None for what is the training's own (scales)."""
    before, found, after = name.partition("parametrizations.")
    if not found:
        return name
    kind, _, rest = after.partition(".")
    return before + kind if rest == ORIGINAL else None


def read_plain(parameters: Mapping[str, Tensor], wanted: Iterable[str]) -> dict[str, Tensor]:
    """The float model's parameters among those of an attached one, by plain name."""
    plain = {plain_name(name): value for name, value in parameters.items()}
    return {name: plain[name].detach() for name in wanted if name in plain}


def _in_float(forward: Callable[..., Any], *args: Any) -> Any:
    """A recurrent layer outside of autocast, which would run it in float16 whatever type it was told, gradients included."""
    floats = [arg.float() if isinstance(arg, Tensor) and arg.is_floating_point() else arg for arg in args]
    with torch.autocast("cuda", enabled=False), warnings.catch_warnings():
        # Weights that were just computed do not lie in one piece, as cuDNN has it at its quickest.
        warnings.filterwarnings("ignore", message="RNN module weights are not part of single contiguous chunk")
        return forward(*floats)


def without_gradient(model: nn.Module) -> list[str]:
    """After a backward pass: parameters that the loss does not reach. They are frozen here, and stay as they are."""
    idle = [name for name, parameter in model.named_parameters() if parameter.requires_grad and parameter.grad is None]
    for name in idle:
        model.get_parameter(name).requires_grad_(False)
    return idle


@torch.no_grad()
def swap_values(model: nn.Module, values: Mapping[str, Tensor]) -> None:
    """Set parameters and buffers by their names in an attached model."""
    state = dict(model.named_parameters()) | dict(model.named_buffers())
    for name, value in values.items():
        state[name].copy_(value)
