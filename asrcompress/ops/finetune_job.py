"""`--finetune`, as a command sees it: reads the speech, joins the other ranks, saves what a stopped training goes on from."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from asrcompress.artifact import ArtifactContent
from asrcompress.errors import AsrCompressError
from asrcompress.ops.calibrate import CalibrationData
from asrcompress.ops.finetune import Finetuned, Speech, finetune
from asrcompress.ops.finetune_config import FinetuneConfig
from asrcompress.ops.finetune_data import read_training_set
from asrcompress.ops.finetune_dev import DevelopmentSet
from asrcompress.ops.hypotheses import require_transcripts, transcribe
from asrcompress.ops.load import Source, build_model, open_source
from asrcompress.ops.probe_data import read_probe_data
from asrcompress.ops.ranks import Ranks
from asrcompress.ops.teacher import Teacher, require_pair
from asrcompress.ops.write import WrittenArtifact
from asrcompress.quantizers.statistics import InputStatistics
from asrcompress.speech.augment import parse_augment
from asrcompress.training.parallel import Parallel, process_group
from asrcompress.training.state import TrainingState
from asrcompress.training.trainer import Progress

SUFFIX = ".training.safetensors"  # of what a stopped training goes on from


@dataclass(frozen=True)
class Report:
    """What is told while it trains. Updates and evaluations are given the progress, the number of updates and the metric's
    name; `reading`, utterances read and all, `transcribing` likewise, by the teacher; `saved`, where a stopped training lies."""

    on_update: Callable[[Progress, int, str], None] = lambda progress, total, metric: None
    on_evaluation: Callable[[Progress, int, str], None] = lambda progress, total, metric: None
    reading: Callable[[int, int], None] = lambda done, total: None
    saved: Callable[[Path, Progress], None] = lambda path, progress: None
    transcribing: Callable[[int, int], None] = lambda done, total: None


@dataclass(frozen=True)
class Material:
    """What a training is made of, which several can share. shared: the teacher with what it said to the students before."""

    speech: Speech
    teacher: Source | None
    shared: Teacher | None = None


@dataclass(frozen=True)
class FinetuneJob:
    """What to train on and how.

    train, dev: data sets as for `eval`. finetune_split, dev_split, keyword: of keyword sets. teacher: a model file; the input where None.
    device: cpu or cuda. resume: go on from what a stopped training left. force: or begin anew over it. option: that the training set was given
    with, for messages.
    """

    train: Path
    config: FinetuneConfig
    dev: Path | None = None
    finetune_split: str | None = None
    dev_split: str | None = None
    keyword: str | None = None
    audio_root: Path | None = None
    teacher: Path | None = None
    device: str = "cpu"
    resume: bool = False
    force: bool = False
    report: Report = field(default_factory=Report)
    option: str = "--finetune"

    @property
    def split_option(self) -> str:
        """What says the training set's split, for messages: distill calls it otherwise."""
        return "--split" if self.option == "--data" else "--finetune-split"

    def check(self, source: Source, output: Path, ranks: Ranks) -> None:
        """Find, before any work, what would stop the training.

        Raises:
            AsrCompressError: no development set, no such device, or a stopped training in the way.
        """
        if self.dev is None and source.family.TASK == "asr":
            raise AsrCompressError(
                f"{self.option} {self.train}: needs --dev, speech that decides which weights are best, such as the dev set"
            )
        if self.config.sequence_level:
            require_transcripts(source)
        self.device_of(ranks)
        state = state_path(output)
        if state.exists() and not (self.resume or self.force):
            raise AsrCompressError(
                f"{state}: a training was stopped here; --resume goes on with it, --force begins anew"
            )
        if self.config.precision == "bfloat16" and self.device != "cuda":
            raise AsrCompressError("--precision bfloat16: is for CUDA; leave it out, or add --device cuda")
        if self.config.parallel == "sharded" and ranks.size == 1:
            raise AsrCompressError("--parallel sharded: splits the model over ranks; start them with torchrun")

    def calibration(self, source: Source, limit: int) -> CalibrationData:
        """The first look at inputs, where no other speech is given for it: some of the training set."""
        from asrcompress.ops.calibrate import read_calibration

        return read_calibration(
            source.family, source.spec, self.train, limit, split=self.finetune_split, audio_root=self.audio_root,
            option=self.split_option,
        )  # fmt: skip

    def run(
        self,
        source: Source,
        content: ArtifactContent,
        output: Path,
        *,
        ranks: Ranks | None = None,
        data_dir: Path | None = None,
        sizes: dict[str, Tensor] | None = None,
        trust: bool = False,
        material: Material | None = None,
    ) -> tuple[Finetuned, DevelopmentSet]:
        """Train `content`, made from `source`, to be written to `output`; what stopped goes on from beside it.

        Raises:
            AsrCompressError: speech that cannot be read, a teacher of another family, or a training that fails.
        """
        ranks = ranks or Ranks()
        material = material or self.read(source, data_dir=data_dir, trust=trust)
        teacher, train, dev = material.teacher, material.speech.train, material.speech.dev
        is_first = ranks.rank == 0
        state = TrainingState(
            state_path(output), self._identity(source, content, teacher, train.sha256, dev), self.resume
        )
        last = Progress()

        def on_evaluation(progress: Progress, total: int) -> None:
            nonlocal last
            last = progress
            if is_first:
                self.report.on_evaluation(progress, total, dev.metric)

        def on_update(progress: Progress, total: int) -> None:
            ranks.beat()
            if is_first:
                self.report.on_update(progress, total, dev.metric)

        shared = material.shared or Teacher(teacher or source)
        with self._parallel(ranks) as parallel:
            try:
                taught = None
                if self.config.sequence_level:
                    taught = transcribe(
                        shared.to(str(parallel.device)), source, train, data_dir=data_dir, ranks=ranks, progress=self.report.transcribing
                    )  # fmt: skip
                speech = Speech(taught.train, dev) if taught else material.speech
                tuned = finetune(
                    source, content, self.config, speech, teacher=shared, parallel=parallel, state=state,
                    sizes=sizes, on_update=on_update, on_evaluation=on_evaluation,
                )  # fmt: skip
                return replace(tuned, record=tuned.record | {"transcripts": taught.record}) if taught else tuned, dev
            except KeyboardInterrupt:
                if is_first and state.path.exists():
                    self.report.saved(state.path, last)
                raise

    def read(
        self, source: Source, *, data_dir: Path | None = None, trust: bool = False, teacher: Source | None = None
    ) -> Material:
        """The speech and the teacher, where it is not given; of several students with one front-end, once for all.

        Raises:
            AsrCompressError: speech that cannot be read, nothing to judge by, or a teacher of another family.
        """
        teacher = teacher or self._teacher(source, data_dir, trust)
        train = read_training_set(
            source, self.train, augment=parse_augment(self.config.augment), seed=self.config.seed,
            limit=self.config.limit, split=self.finetune_split, keyword=self.keyword,
            audio_root=self.audio_root, data_dir=data_dir, progress=self.report.reading, split_option=self.split_option,
        )  # fmt: skip
        dev = DevelopmentSet(
            read_probe_data(
                source, self.dev or self.train, split=self.dev_split, keyword=self.keyword, audio_root=self.audio_root,
                data_dir=data_dir, default_splits=("val",), split_option="--dev-split",
            )
        )  # fmt: skip
        if self.dev is None and dev.data.split == train.split:
            raise AsrCompressError(
                f"{self.option} {self.train}: has nothing apart from what it trains on; add --dev, speech that decides which weights are best"
            )
        return Material(Speech(train, dev), teacher)

    def _teacher(self, source: Source, data_dir: Path | None, trust: bool) -> Source | None:
        if self.teacher is None:
            return None
        teacher = open_source(self.teacher, data_dir=data_dir, trust=trust)
        require_pair(teacher, source)
        return teacher

    def device_of(self, ranks: Ranks) -> str:
        """The device of this rank.

        Raises:
            AsrCompressError: there is no such device.
        """
        if self.device not in ("cpu", "cuda"):
            raise AsrCompressError(f"--device {self.device}: use cpu or cuda")
        if self.device == "cuda":
            if not torch.cuda.is_available():
                raise AsrCompressError("--device cuda: torch finds no CUDA device here; use --device cpu")
            if ranks.local_rank >= torch.cuda.device_count():
                raise AsrCompressError(
                    f"--device cuda: there are more ranks on this machine than its {torch.cuda.device_count()} GPUs, and each "
                    "needs its own; start fewer with torchrun --nproc-per-node"
                )
            return f"cuda:{ranks.local_rank}"
        return "cpu"

    @contextmanager
    def _parallel(self, ranks: Ranks) -> Iterator[Parallel]:
        device, sharded = self.device_of(ranks), self.config.parallel == "sharded"
        with ExitStack() as stack:
            if device != "cpu":
                torch.cuda.set_device(device)
                # float32 is float32: cuDNN would round operands to 10 bits of mantissa.
                stack.enter_context(torch.backends.cudnn.flags(enabled=True, allow_tf32=False))
            if ranks.size > 1:
                stack.enter_context(process_group(ranks.store, ranks.rank, ranks.size, device))
            yield Parallel(ranks.rank, ranks.size, device, is_sharded=sharded)

    def _identity(
        self, source: Source, content: ArtifactContent, teacher: Source | None, train: str, dev: DevelopmentSet
    ) -> str:
        """What a saved training is of; the number of ranks and the device do not matter."""
        options = replace(self.config, precision="auto", parallel="data").to_json()
        teaching = teacher.sha256 if teacher else None
        parts = [source.sha256, content.recipe, teaching, train, dev.data.sha256, dev.data.keyword, options]
        return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()


class Training:
    """A job within a command that makes a file: trains its content, measures what was written, and tidies up.

    Args:
        job: what to do.
        source: the file that is compressed.
        output: the artifact to come.
        ranks: of this run; the first writes.
        data_dir: the folder of the SentencePiece model, where it is not the checkpoint's own.
        trust: whether a teacher's code may run.
        material: speech and teacher, where they are read already.

    Raises:
        AsrCompressError: what `FinetuneJob.check` finds.
    """

    def __init__(
        self,
        job: FinetuneJob,
        source: Source,
        output: Path,
        ranks: Ranks,
        *,
        data_dir: Path | None,
        trust: bool,
        material: Material | None = None,
    ) -> None:
        job.check(source, output, ranks)
        self._material = material
        self._job, self._source, self._output, self._ranks = job, source, output, ranks
        self._data_dir, self._trust = data_dir, trust
        self._found: tuple[Finetuned, DevelopmentSet] | None = None

    def __call__(self, content: ArtifactContent, statistics: Mapping[str, InputStatistics]) -> ArtifactContent:
        """The content, trained; masks are chosen by what `statistics` say of each weight's inputs."""
        sizes = {name: input_sizes(found) for name, found in statistics.items()}
        self._found = self._job.run(
            self._source,
            content,
            self._output,
            ranks=self._ranks,
            data_dir=self._data_dir,
            sizes=sizes,
            trust=self._trust,
            material=self._material,
        )
        return self._found[0].content

    def describe(self, written: Source) -> dict[str, Any]:
        """The sidecar's `training`, with what the file that was written gives on the development set.

        Raises:
            RuntimeError: it is not what the training measured, though it should be: a bug.
        """
        assert self._found is not None  # noqa: S101 (called once there is a file)
        tuned, dev = self._found
        metric, loss = dev.measure(build_model(written, device=self._job.device_of(self._ranks)))
        best = tuned.record["best"]
        same = metric == best["metric"] and math.isclose(loss, best["loss"], rel_tol=1e-5)
        # Grids of activations come after the training, and CUDA sums in no fixed order.
        if not same and self._job.device == "cpu" and not (written.content and written.content.grids):
            raise RuntimeError(
                f"{written.path}: gives {dev.metric} {metric} and loss {loss} where training gave {best['metric']} and {best['loss']}"
            )
        return tuned.record | {"written": {"metric": metric, "loss": loss}}

    def finish(self, write: Callable[[], WrittenArtifact]) -> WrittenArtifact:
        """Write, on the first rank, for all; then remove what a stopped training would have gone on from."""
        if self._ranks.rank:
            path, sidecar, record, removed = self._ranks.gather(None)[0]
            return WrittenArtifact(Path(path), Path(sidecar), record, tuple(map(Path, removed)))
        written = write()
        state_path(self._output).unlink(missing_ok=True)
        self._ranks.gather(
            [str(written.path), str(written.sidecar), written.record, [str(path) for path in written.removed]]
        )
        return written


def input_sizes(statistics: InputStatistics) -> Tensor:
    """Root mean square of each input of a weight: (columns,), or (groups, columns) of a grouped convolution."""
    second = statistics.second_moment
    diagonal = second if statistics.is_diagonal else second.diagonal(dim1=1, dim2=2)
    size = (diagonal.clamp_min(0) / max(statistics.count, 1)).sqrt()
    return size[0] if len(size) == 1 else size


def state_path(output: Path) -> Path:
    """Where the training of `output` is saved while it runs."""
    return output.with_name(output.name.removesuffix(".safetensors") + SUFFIX)
