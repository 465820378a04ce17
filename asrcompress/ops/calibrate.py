"""Running a model on real speech to see what flows through it: inputs of weights, ranges of activations.

Both runs are of the twins that will run later, so attention is seen from the inside. Which grids follow from what was
seen is integers/observers.py's; which codes, the quantizers'.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from asrcompress.errors import AsrCompressError
from asrcompress.integers.grid import Grid
from asrcompress.integers.observers import Observer
from asrcompress.integers.sites import Sites, is_operand
from asrcompress.modules.swap import WeightSite, swap
from asrcompress.modules.weight import FloatWeight
from asrcompress.ops.recipe import QuantizeConfig
from asrcompress.quantizers.statistics import InputStatistics

Progress = Callable[[int, int], None]
Run = Callable[[nn.Module, Progress], None]


@dataclass(frozen=True)
class CalibrationData:
    """Features of some utterances or clips, and where they are from."""

    features: tuple[Tensor, ...]
    file: str
    sha256: str

    def describe(self) -> dict[str, Any]:
        """What the recipe records."""
        return {"file": self.file, "sha256": self.sha256, "num_utterances": len(self.features)}


def read_calibration(
    family: Any,
    spec: Any,
    data: Path,
    limit: int,
    *,
    split: str | None = None,
    audio_root: Path | None = None,
    option: str = "--calibration-split",
) -> CalibrationData:
    """Features of `limit` utterances spread evenly over a set. References and labels are not used.

    Raises:
        AsrCompressError: no set is there, audio cannot be read, or all of it is too short.
    """
    from asrcompress.speech.audio import read_audio

    if family.TASK == "asr":
        from asrcompress.speech.datasets import read_utterances

        if split is not None:
            raise AsrCompressError(
                f"{option} {split}: is for keyword sets; a table of utterances has none, so leave it out"
            )
        dataset = read_utterances(data, audio_root=audio_root)
        files, sha256 = [utterance.audio for utterance in dataset.utterances], dataset.sha256
    else:
        from asrcompress.speech.keyword_datasets import read_clip_files

        files, sha256 = read_clip_files(data, split=split, audio_root=audio_root, option=option)
    chosen = [files[index * len(files) // min(limit, len(files))] for index in range(min(limit, len(files)))]
    features = (family.features(spec, read_audio(file, sample_rate_hz=family.SAMPLE_RATE_HZ)) for file in chosen)
    heard = tuple(frames for frames in features if len(frames))
    if not heard:
        raise AsrCompressError(f"{data}: no audio in it is long enough to calibrate with; give longer recordings")
    return CalibrationData(heard, data.resolve().name, sha256)


def runner(family: Any, spec: Any, data: CalibrationData) -> Run:
    """A function that runs a model over the data as `eval` would: ASR searches greedily, so that its decoder runs on its own output."""

    def run(module: nn.Module, progress: Progress) -> None:
        with torch.inference_mode():
            transcribe = family.transcriber(spec, module, beam=1) if family.TASK == "asr" else None
            for done, frames in enumerate(data.features):
                progress(done, len(data.features))
                if transcribe:
                    transcribe([frames])
                else:
                    family.scores(module, [frames])
            progress(len(data.features), len(data.features))

    return run


def weight_statistics(
    model: nn.Module, sites: Sequence[WeightSite], run: Run, progress: Progress = lambda done, total: None
) -> dict[str, InputStatistics]:
    """What each weight is multiplied by while `run` runs the float `model`, which is swapped in place.

    A weight that is looked up and not multiplied, or that the run never reaches (a head for training alone), gets
    InputStatistics.unknown.
    """
    found: dict[str, InputStatistics] = {}
    weights: dict[str, FloatWeight] = {}
    for site in sites:
        if not site.tied_to:
            weights[site.name] = FloatWeight(model.get_parameter(site.name).detach().float())

    def watch(name: str) -> Callable[[Tensor], None]:
        def observe(x: Tensor) -> None:
            if name not in found:
                found[name] = InputStatistics.empty(1 if x.dim() == 2 else x.shape[1], x.shape[-1])
            found[name].add(x)

        return observe

    for name, weight in weights.items():
        weight.observer = watch(name)
    run(swap(model, weights).eval(), progress)
    for name in weights.keys() - found.keys():
        found[name] = InputStatistics.unknown(weights[name].matrix().shape[1])
    return found


class RangeRecorder:
    """Ranges of every site, for grids."""

    def __init__(self) -> None:
        self.observers: dict[str, Observer] = {}

    def __call__(self, site: str, values: Tensor) -> None:
        """Count in what passes a site."""
        try:
            self.observers.setdefault(site, Observer()).add(values)
        except AsrCompressError as error:
            raise AsrCompressError(f"{site}: {error}; the checkpoint or the calibration audio is broken") from error

    def grids(self, config: QuantizeConfig) -> dict[str, Grid]:
        """The grid of each site. What weights multiply may have a zero point, other codes are symmetric."""
        return {
            site: observer.grid(
                config.bits_of_site(site, is_operand=is_operand(site)),
                symmetric=not site.rpartition(":")[2].startswith("in"),
                method=config.calibration_method,
            )
            for site, observer in self.observers.items()
        }


def recording_sites() -> tuple[RangeRecorder, Sites]:
    """A recorder, and the sites of a model that it watches."""
    recorder = RangeRecorder()
    return recorder, Sites(record=recorder)
