"""The keyword spotter: convolution, GRU, additive attention, linear classifier over log-mel frames.

State-dict names are those of the keyword-spotting report's models (conv.0, gru, attention.energy.0/.2, classifier).
Leaves out the log-mel front-end, reading files and thresholds.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from asrcompress.errors import AsrCompressError
from asrcompress.models.crnn_stream import AtOnce, Memory

_GRU_NAME = re.compile(r"gru\.weight_ih_l\d+$")


class Attention(nn.Module):
    """Additive attention that sums the frames of a sequence, weighted by a softmax over time."""

    def __init__(self, hidden_size: int) -> None:
        super().__init__()
        self.energy = nn.Sequential(nn.Linear(hidden_size, hidden_size), nn.Tanh(), nn.Linear(hidden_size, 1))

    def forward(self, frames: Tensor, energies: Tensor | None = None) -> Tensor:
        """(batch, time, hidden) -> (batch, hidden); `energies` (batch, time, 1) where they are known already."""
        weights = torch.softmax(self.energy(frames) if energies is None else energies, dim=-2)
        return torch.matmul(weights.transpose(-2, -1), frames).squeeze(-2)  # a product, so that its MACs are counted


class CRNN(nn.Module):
    """Conv2d -> flatten channel x frequency -> GRU (unidirectional) -> additive attention -> classes.

    Args:
        num_channels: output channels of the convolution.
        hidden_size: width of the GRU and of the attention.
        num_layers: layers of the GRU.
        num_classes: logits; class order is (other, keyword) for two.
        num_mels: log-mel bins of the input.
        kernel_size: of the convolution, (mel bins, frames).
        stride: of the convolution, (mel bins, frames).
        dropout: between GRU layers, in training only.
    """

    def __init__(
        self,
        num_channels: int = 8,
        hidden_size: int = 64,
        *,
        num_layers: int = 2,
        num_classes: int = 2,
        num_mels: int = 40,
        kernel_size: tuple[int, int] = (5, 20),
        stride: tuple[int, int] = (2, 8),
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        kernel_size, stride = (kernel_size[0], kernel_size[1]), (stride[0], stride[1])  # JSON gives lists
        self.sizes: dict[str, Any] = {  # CRNN(**model.sizes) builds the same shapes
            "num_channels": num_channels,
            "hidden_size": hidden_size,
            "num_layers": num_layers,
            "num_classes": num_classes,
            "num_mels": num_mels,
            "kernel_size": kernel_size,
            "stride": stride,
        }
        num_bands = (num_mels - kernel_size[0]) // stride[0] + 1
        self.conv = nn.Sequential(
            nn.Conv2d(1, num_channels, kernel_size, stride=stride), nn.Flatten(start_dim=1, end_dim=2)
        )
        self.gru = nn.GRU(
            num_channels * num_bands,
            hidden_size,
            num_layers=num_layers,
            batch_first=True,
            dropout=dropout if num_layers > 1 else 0.0,
        )
        self.attention = Attention(hidden_size)
        self.classifier = nn.Linear(hidden_size, num_classes)

    def forward(self, log_mel: Tensor, stream: Memory | AtOnce | None = None) -> Tensor:
        """Classify whole clips, or the steps of one stream.

        Args:
            log_mel: (batch, num_mels, frames).
            stream: None for clips; else log_mel is (1, num_mels, frames) of a stream, with a `Memory` any number of frames.

        Returns:
            Logits, (batch, num_classes), or (steps, num_classes) of a stream.

        Raises:
            AsrCompressError: another shape, or fewer frames than the convolution's kernel.
        """
        num_mels = self.sizes["num_mels"]
        num_frames = 1 if isinstance(stream, Memory) else self.sizes["kernel_size"][1]
        if log_mel.dim() != 3 or log_mel.shape[1] != num_mels or log_mel.shape[2] < num_frames:
            raise AsrCompressError(
                f"keyword CRNN: input of shape {tuple(log_mel.shape)}; it needs (batch, {num_mels} mel bins, "
                f"at least {num_frames} frames): pad the clip or check the front-end"
            )
        if stream is not None:
            return stream.run(self, log_mel)
        frames = self.conv(log_mel.unsqueeze(1)).transpose(1, 2)
        hidden, _ = self.gru(frames)
        return self.classifier(self.attention(hidden))

    @classmethod
    def from_state_dict(
        cls, tensors: Mapping[str, Tensor], *, num_mels: int = 40, stride: tuple[int, int] = (2, 8)
    ) -> CRNN:
        """Build the model that these tensors fit, in eval mode, with its weights in float32.

        Every size a tensor shows is read from it; mel bins and stride leave no trace in the tensors and are stated.

        Args:
            tensors: name -> tensor, as a state dict holds them (float of any width).
            num_mels: log-mel bins of the input.
            stride: of the convolution, (mel bins, frames).

        Raises:
            AsrCompressError: names, shapes or dtypes are not those of a keyword CRNN.
        """
        conv = _expect(tensors, "conv.0.weight", 4)
        hidden = _expect(tensors, "gru.weight_hh_l0", 2)
        classifier = _expect(tensors, "classifier.weight", 2)
        kernel_size = (int(conv.shape[2]), int(conv.shape[3]))
        if num_mels < kernel_size[0] or min(stride) < 1 or 0 in conv.shape or 0 in hidden.shape:
            raise AsrCompressError(
                f"keyword CRNN: conv.0.weight {tuple(conv.shape)} does not fit {num_mels} mel bins with stride {stride}"
            )
        with torch.device("meta"):  # shapes only: nothing is allocated or drawn at random until they fit
            model = cls(
                num_channels=int(conv.shape[0]),
                hidden_size=int(hidden.shape[1]),
                num_layers=max(1, sum(_GRU_NAME.match(name) is not None for name in tensors)),
                num_classes=int(classifier.shape[0]),
                num_mels=num_mels,
                kernel_size=kernel_size,
                stride=stride,
            )
        _check_fit(tensors, model.state_dict(), f"{num_mels} mel bins and stride {tuple(stride)}")
        # Not to_empty, for which torch loads sympy: half a second.
        model.load_state_dict(
            {name: tensor.to(torch.float32, copy=True) for name, tensor in tensors.items()}, assign=True
        )
        return model.eval()


def _expect(tensors: Mapping[str, Tensor], name: str, num_dims: int) -> Tensor:
    tensor = tensors.get(name)
    if not isinstance(tensor, Tensor) or tensor.dim() != num_dims:
        found = "absent" if tensor is None else f"of shape {tuple(getattr(tensor, 'shape', ()))}"
        raise AsrCompressError(
            f"not a keyword CRNN: {name} is {found}; expected a {num_dims}-dimensional tensor "
            "(names: conv.0.*, gru.*, attention.energy.0.*, attention.energy.2.*, classifier.*)"
        )
    return tensor


def _check_fit(tensors: Mapping[str, Tensor], expected: Mapping[str, Tensor], assumed: str) -> None:
    missing = sorted(set(expected) - set(tensors))
    extra = sorted(set(tensors) - set(expected))
    for word, names in (("missing", missing), ("unexpected", extra)):
        if names:
            raise AsrCompressError(f"not a keyword CRNN: {len(names)} {word} tensors, first {names[0]}")
    for name, want in expected.items():
        have = tensors[name]
        if not isinstance(have, Tensor) or have.shape != want.shape:
            raise AsrCompressError(
                f"keyword CRNN: {name} has shape {tuple(getattr(have, 'shape', ()))}, the other tensors ask for "
                f"{tuple(want.shape)} (assuming {assumed})"
            )
        if not have.is_floating_point():
            raise AsrCompressError(f"keyword CRNN: {name} is {have.dtype}; a state dict of floats is needed")
