"""Family kws_crnn: the keyword spotter of the streaming, distillation and quantization report.

Log-mel front-end (16 kHz, n_fft = win = 400, hop 160, 40 bins), clips padded or cut to one second.
Sizes are read from the tensors. The network itself is crnn.py.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn

from asrcompress.errors import AsrCompressError
from asrcompress.models import ModelSpec
from asrcompress.models.crnn import CRNN
from asrcompress.models.device import device_of
from asrcompress.models.features import log_mel, quick_log_mel
from asrcompress.models.sizes import shrink_width

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from asrcompress.checkpoints import Checkpoint
    from asrcompress.models.kws_stream import KeywordStream

TASK = "keyword"
CRITERION = "cross_entropy"
SAMPLE_RATE_HZ = 16_000
CLIP_SAMPLES = 16_000
FRAMES_AXIS = 1  # of features; other families have frames first
WINDOW, HOP = 400, 160
NUM_CLASSES = 2  # (other, keyword)
STUDENT_OPTIONS = {"channels": 1, "hidden": 1, "layers": 1, "kernel": 2, "stride": 2}
ARGUMENTS = {
    "channels": "num_channels",
    "hidden": "hidden_size",
    "layers": "num_layers",
    "kernel": "kernel_size",
    "stride": "stride",
}  # of CRNN
DEFAULT_DURATION_S = 1.0


def recognises(checkpoint: Checkpoint) -> bool:
    """A state dict with the report's names."""
    return {"conv.0.weight", "gru.weight_ih_l0", "classifier.weight"} <= checkpoint.tensors.keys()


def read_spec(checkpoint: Checkpoint, data_dir: Path | None = None) -> ModelSpec:
    """All sizes, from the tensors' shapes; `data_dir` is not needed."""
    sizes = dict(CRNN.from_state_dict(checkpoint.tensors).sizes)
    if sizes["num_classes"] != NUM_CLASSES:
        raise AsrCompressError(
            f"{checkpoint.path}: tells {sizes['num_classes']} classes apart; keyword models of two, (other, keyword), are supported"
        )
    return ModelSpec("kws_crnn", sizes)


def is_computed(name: str) -> bool:
    """No tensor of the CRNN is computed rather than learned."""
    return False


def clean_tensors(checkpoint: Checkpoint, spec: ModelSpec) -> dict[str, Tensor]:
    """The tensors as they are: the built module has the same names."""
    return dict(checkpoint.tensors)


def build(spec: ModelSpec) -> nn.Module:
    """A fresh CRNN of these sizes."""
    sizes: dict[str, Any] = {
        name: tuple(size) if isinstance(size, list) else size for name, size in spec.config.items()
    }
    return CRNN(**sizes).eval()


def student(spec: ModelSpec, given: Mapping[str, Any], shrink: float | None) -> tuple[ModelSpec, dict[str, Any]]:
    """A student's sizes; `shrink` is of channels and hidden size. The GRU keeps its layers, as the report's students do.

    Kernel and stride are [mel bins, frames]. Raises AsrCompressError when the kernel is larger than a clip.
    """
    config = dict(spec.config)
    sizes = {
        "channels": shrink_width(config["num_channels"], shrink),
        "hidden": shrink_width(config["hidden_size"], shrink),
        "layers": config["num_layers"],
        "kernel": list(config["kernel_size"]),
        "stride": list(config["stride"]),
    } | dict(given)
    (bins, frames), num_frames = sizes["kernel"], CLIP_SAMPLES // HOP + 1
    if bins > config["num_mels"] or frames > num_frames:
        raise AsrCompressError(
            f"kernel={bins}x{frames}: a clip is {config['num_mels']} mel bins x {num_frames} frames; use a smaller kernel"
        )
    changed = {argument: sizes[name] for name, argument in ARGUMENTS.items()}
    return ModelSpec("kws_crnn", config | changed), sizes


def features(spec: ModelSpec, audio: np.ndarray) -> Tensor:
    """(samples,) -> log-mel (num_mels, frames) of one second, padded with zeros or cut at the end."""
    num_mels = spec.config["num_mels"]
    return log_mel(fit_clip(audio), sample_rate_hz=SAMPLE_RATE_HZ, num_mels=num_mels, window=WINDOW, hop=HOP)


def quick_features(spec: ModelSpec, audio: np.ndarray) -> Tensor:
    """The same in half the time, up to rounding."""
    num_mels = spec.config["num_mels"]
    return quick_log_mel(fit_clip(audio), sample_rate_hz=SAMPLE_RATE_HZ, num_mels=num_mels, window=WINDOW, hop=HOP)


def fit_clip(audio: np.ndarray) -> np.ndarray:
    """(samples,) -> one second, padded with zeros or cut at the end; always a copy."""
    clip = np.zeros(CLIP_SAMPLES, dtype=np.float32)
    clip[: min(len(audio), CLIP_SAMPLES)] = audio[:CLIP_SAMPLES]
    return clip


def example_inputs(
    spec: ModelSpec, duration_s: float, num_tokens: int | None, batch_size: int
) -> tuple[tuple[Tensor, ...], dict[str, Any]]:
    """Silence of this length, to count MACs with; frames = samples // hop + 1."""
    num_frames = int(duration_s * SAMPLE_RATE_HZ) // HOP + 1
    record = {"duration_s": duration_s, "num_frames": num_frames, "num_tokens": None, "batch_size": batch_size}
    return (torch.zeros(batch_size, spec.config["num_mels"], num_frames),), record


def scores(module: nn.Module, batch: list[Tensor]) -> list[float]:
    """Probability of the keyword (class 1) for each clip's features."""
    with torch.inference_mode():
        logits = module(torch.stack(batch))
    return torch.softmax(logits.double(), dim=-1)[:, 1].tolist()


def stream(spec: ModelSpec, module: nn.Module, window_s: float = 1.0) -> KeywordStream:
    """The model on running audio, with an attention over the last `window_s` seconds."""
    from asrcompress.models.kws_stream import KeywordStream

    return KeywordStream(spec, module, window_s)


def log_probs(spec: ModelSpec, module: nn.Module, features: list[Tensor], targets: None = None) -> list[Tensor]:
    """Log-probabilities of (other, keyword): (1, 2) per clip, differentiable. Nothing is fed back, so targets do not matter."""
    device = device_of(module)
    logits = module(torch.stack(features).to(device))
    return list(logits.float().log_softmax(dim=-1).unsqueeze(1))
