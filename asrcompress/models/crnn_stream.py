"""The CRNN over a running sequence of frames: what it keeps between pieces, and the definition that it has to meet.

Definition: step k is the convolution's k-th output. The GRU runs over all steps, the attention over the last `window`
of them (all where there are fewer), and the classifier gives logits at every step. `AtOnce` computes just that over a
whole recording; `Memory` over pieces, with nothing computed twice. Both are run inside of the model's own forward, so
that a model on integers stays on integers: what is kept are the codes.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from asrcompress.integers.tensor import same_grid

if TYPE_CHECKING:
    from asrcompress.models.crnn import CRNN


@dataclass(frozen=True)
class AtOnce:
    """All steps of a whole recording, the attention anew for each."""

    window: int

    def run(self, model: CRNN, log_mel: Tensor) -> Tensor:
        """(1, mels, frames) -> logits (steps, classes)."""
        hidden, _ = model.gru(model.conv(log_mel.unsqueeze(1)).transpose(1, 2))
        ends = range(1, hidden.shape[1] + 1)
        contexts = [model.attention(hidden[:, max(0, end - self.window) : end]) for end in ends]
        return model.classifier(_cat(contexts, 0))  # type: ignore[no-any-return]


@dataclass
class Memory:
    """What is kept between pieces: frames for the next convolutions, the GRU's state, and the attention's window.

    window: outputs of the GRU that the attention sees.
    frames: (1, mels, frames), from the first that the next step needs.
    hidden: (layers, 1, hidden).
    outputs, energies: (1, up to window - 1, hidden) and (1, the same, 1).
    """

    window: int
    frames: Tensor | None = None
    hidden: Tensor | None = None
    outputs: Tensor | None = None
    energies: Tensor | None = None

    def forget(self) -> None:
        """Begin anew with the next step; the frames stay, as the audio goes on."""
        self.hidden = self.outputs = self.energies = None

    def tensors(self) -> list[Tensor]:
        """All that is kept."""
        return [x for x in (self.frames, self.hidden, self.outputs, self.energies) if x is not None]

    def run(self, model: CRNN, log_mel: Tensor) -> Tensor:
        """New frames (1, mels, frames) -> logits (steps, classes) of the steps that they complete, maybe none."""
        kernel, stride = model.sizes["kernel_size"][1], model.sizes["stride"][1]
        frames = log_mel if self.frames is None else _cat([self.frames, log_mel], 2)
        num_steps = max(0, (frames.shape[2] - kernel) // stride + 1)
        self.frames = frames[:, :, num_steps * stride :].clone()  # a view would keep all that came before
        if num_steps == 0:
            return torch.zeros(0, model.sizes["num_classes"], device=log_mel.device)
        used = frames[:, :, : (num_steps - 1) * stride + kernel]
        outputs, self.hidden = model.gru(model.conv(used.unsqueeze(1)).transpose(1, 2), self.hidden)
        contexts = self._attend(model, outputs, model.attention.energy(outputs))
        return model.classifier(contexts)  # type: ignore[no-any-return]

    def _attend(self, model: CRNN, outputs: Tensor, energies: Tensor) -> Tensor:
        """(1, steps, hidden) and (1, steps, 1) -> (steps, hidden), each over its own window."""
        num_steps = outputs.shape[1]
        if self.outputs is not None and self.energies is not None:
            outputs, energies = _cat([self.outputs, outputs], 1), _cat([self.energies, energies], 1)
        first_end = outputs.shape[1] - num_steps + 1
        growing = range(first_end, min(self.window, outputs.shape[1] + 1))  # the windows that are not full yet
        contexts = [model.attention(outputs[:, :end], energies[:, :end]) for end in growing]
        if (
            len(growing) < num_steps
        ):  # the full ones all together: of what is kept, a step short of a window, and the new
            windows = (x[0].unfold(0, self.window, 1).transpose(1, 2) for x in (outputs, energies))
            contexts.append(model.attention(*windows))
        kept = max(0, outputs.shape[1] - self.window + 1)
        self.outputs, self.energies = outputs[:, kept:].clone(), energies[:, kept:].clone()
        return _cat(contexts, 0)


def _cat(tensors: list[Tensor], dim: int) -> Tensor:
    """torch.cat, of codes as well."""
    return same_grid(torch.cat, tensors, dim)
