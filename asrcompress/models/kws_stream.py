"""Keyword spotting on running audio: samples in, a probability of the keyword every 80 ms out.

The same network as on clips (kws_crnn.py), at every level of integers. What a step is, is defined in crnn_stream.py; how
probabilities become detections is metrics/events.py's work.
"""

from __future__ import annotations

from copy import copy
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from asrcompress.errors import AsrCompressError
from asrcompress.models import ModelSpec
from asrcompress.models.crnn_stream import AtOnce, Memory
from asrcompress.models.device import device_of
from asrcompress.models.features import log_mel
from asrcompress.models.kws_crnn import HOP, SAMPLE_RATE_HZ, WINDOW
from asrcompress.models.log_mel_stream import LogMelStream


@dataclass(frozen=True)
class Step:
    """One output of the stream.

    index: since the recording began.
    time_s: where in the recording the audio ends that its newest frame covers.
    probability: of the keyword.
    logits: (other, keyword) as float32 numbers; at level integer-only each stands for one code.
    """

    index: int
    time_s: float
    probability: float
    logits: tuple[float, ...]


class KeywordStream:
    """One microphone's stream. `module` may be shared: all that changes is kept here.

    Args:
        spec: of the model.
        module: float, packed, or on integers; in eval mode.
        window_s: audio that the attention sees, in seconds. A clip's length gives a clip's score after a clip's audio.

    Raises:
        AsrCompressError: a window shorter than one step, or a convolution that leaves frames out.
    """

    def __init__(self, spec: ModelSpec, module: nn.Module, window_s: float = 1.0) -> None:
        self.spec, self.module, self.device = spec, module, device_of(module)
        if spec.config["stride"][1] > spec.config["kernel_size"][1]:
            raise AsrCompressError(
                f"keyword CRNN: a stride of {spec.config['stride'][1]} frames leaves out frames between kernels of "
                f"{spec.config['kernel_size'][1]}; a stream needs a stride of at most the kernel"
            )
        self.window_steps = window_steps(spec, window_s)
        self.memory = Memory(self.window_steps)
        self.front_end = LogMelStream(
            sample_rate_hz=SAMPLE_RATE_HZ, num_mels=spec.config["num_mels"], window=WINDOW, hop=HOP
        )
        self.num_samples = self.num_steps = 0

    def feed(self, samples: np.ndarray) -> list[Step]:
        """Hear more: (samples,) float32 in [-1, 1], any number of them -> the steps that they complete."""
        if samples.ndim != 1 or not np.issubdtype(samples.dtype, np.floating):
            raise ValueError(
                f"samples of shape {samples.shape} and {samples.dtype}: float32 in [-1, 1] of one channel is needed"
            )
        self.num_samples += len(samples)
        return self._steps(self.front_end.feed(samples))

    def finish(self) -> list[Step]:
        """The steps that reach over the end of the recording; what is fed next begins another one."""
        steps = self._steps(self.front_end.finish())
        self.reset()
        self.memory.frames = None
        self.num_samples = self.num_steps = 0
        return steps

    def reset(self) -> None:
        """Forget what was heard: the GRU's state and the attention's window. Audio that waits for its step is kept."""
        self.memory.forget()

    def copy(self) -> KeywordStream:
        """A stream that has heard the same; from here on each goes its own way. Costs nothing: no tensor is changed in place."""
        other = copy(self)
        other.memory, other.front_end = copy(self.memory), copy(self.front_end)
        return other

    @property
    def step_samples(self) -> int:
        """Samples from one step to the next."""
        return int(self.spec.config["stride"][1]) * HOP

    @property
    def state_bytes(self) -> int:
        """Memory that the stream holds now, in bytes: of the whole storage behind each of its tensors."""
        tensors = [self.front_end.samples, *self.memory.tensors()]
        return sum(tensor.untyped_storage().nbytes() for tensor in tensors)

    def _steps(self, frames: Tensor) -> list[Step]:
        if frames.shape[1] == 0:
            return []
        with torch.inference_mode():
            logits = self.module(frames.unsqueeze(0).to(self.device), self.memory)
        steps = as_steps(self.spec, logits, self.num_steps, self.num_samples)
        self.num_steps += len(steps)
        return steps


def offline(spec: ModelSpec, module: nn.Module, audio: np.ndarray, window_s: float = 1.0) -> list[Step]:
    """What a stream gives for a whole recording, computed at once and without buffers: what streams are held against."""
    num_mels = spec.config["num_mels"]
    if len(audio) <= WINDOW // 2:
        return []
    features = log_mel(audio, sample_rate_hz=SAMPLE_RATE_HZ, num_mels=num_mels, window=WINDOW, hop=HOP)
    if features.shape[1] < spec.config["kernel_size"][1]:
        return []
    with torch.inference_mode():
        logits = module(features.unsqueeze(0).to(device_of(module)), AtOnce(window_steps(spec, window_s)))
    return as_steps(spec, logits, 0, len(audio))


def window_steps(spec: ModelSpec, window_s: float) -> int:
    """Steps in audio of this length: what the attention sees.

    Raises:
        AsrCompressError: not even one.
    """
    kernel, stride = spec.config["kernel_size"][1], spec.config["stride"][1]
    least_s = (kernel - 1) * HOP / SAMPLE_RATE_HZ
    if not least_s <= window_s < 3600:  # NaN is not in between
        raise AsrCompressError(
            f"a window of {window_s} s: is out of range; use {least_s} s, which is one step, to an hour"
        )
    num_frames = int(window_s * SAMPLE_RATE_HZ) // HOP + 1
    return int((num_frames - kernel) // stride + 1)


def timing(spec: ModelSpec) -> dict[str, float]:
    """What the network itself asks for, in milliseconds.

    step_ms: from step to step. first_step_ms: audio before the first step. algorithmic_latency_ms: from the middle of a
    frame to the end of the audio of the first step that has it, where that is longest; waiting for a chunk to fill is not in it.
    """
    kernel, stride = spec.config["kernel_size"][1], spec.config["stride"][1]
    reach = WINDOW // 2
    samples = {
        "step_ms": stride * HOP,
        "first_step_ms": (kernel - 1) * HOP + reach,
        "algorithmic_latency_ms": (stride - 1) * HOP + reach,
    }
    return {name: 1000 * count / SAMPLE_RATE_HZ for name, count in samples.items()}


def as_steps(spec: ModelSpec, logits: Tensor, first: int, num_samples: int) -> list[Step]:
    """Logits (steps, classes) of consecutive steps; `num_samples` have been heard, no step ends behind them."""
    kernel, stride = spec.config["kernel_size"][1], spec.config["stride"][1]
    probabilities = torch.softmax(logits.double(), dim=-1)[:, 1].tolist()
    steps = []
    for index, (probability, row) in enumerate(zip(probabilities, logits.float().tolist(), strict=True), first):
        end = min((index * stride + kernel - 1) * HOP + WINDOW // 2, num_samples)
        steps.append(Step(index, end / SAMPLE_RATE_HZ, probability, tuple(row)))
    return steps
