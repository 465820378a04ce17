"""distill: a teacher -> smaller models of its family that learned from it, each a float artifact with its sidecar.

Students are made by student.py and trained by the loop that fine-tunes compressed models; nothing of theirs is packed here.
`quantize --finetune --teacher T` goes on from a student and trains it on the grid that it is stored on.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from asrcompress.artifact import ArtifactContent
from asrcompress.errors import AsrCompressError
from asrcompress.ops.content import assemble_step, left_in_float, tied_names
from asrcompress.ops.finetune_job import FinetuneJob, Training
from asrcompress.ops.load import Source, open_source
from asrcompress.ops.ranks import Ranks
from asrcompress.ops.sites import find_sites
from asrcompress.ops.student import Student, make_student
from asrcompress.ops.teacher import Teacher
from asrcompress.ops.write import WrittenArtifact, check_artifact_output, check_compact, write_artifact

# Options of training where none is given, by task: a student starts far from its end, and keyword clips are few.
DEFAULTS: dict[str, dict[str, Any]] = {
    "keyword": {
        "epochs": 150, "batch_size": 64, "learning_rate": 5e-3, "distillation": 0.9, "temperature": 10.0, "evaluations": 0.2,
        "select": "loss",
        "augment": "shift,gain,noise,babble,specaugment,variants",
    },
    "asr": {"epochs": 20, "learning_rate": 5e-4},
}  # fmt: skip


@dataclass(frozen=True)
class Request:
    """One student: its sizes as `--student` has them or a factor on the teacher's, and where it goes."""

    output: Path
    text: str | None = None
    shrink: float | None = None


def distill(
    path: str | Path,
    requests: Sequence[Request],
    make_job: Callable[[str], FinetuneJob],
    *,
    is_compact: bool = False,
    data_dir: Path | None = None,
    trust: bool = False,
    force: bool = False,
    ranks: Ranks | None = None,
    on_student: Callable[[Student, Path], None] = lambda student, output: None,
) -> list[WrittenArtifact]:
    """Train students of `path`, one after the other; each is written as soon as it is done.

    Args:
        path: the teacher, a checkpoint or an artifact.
        requests: the students.
        make_job: how they are trained, by the family's task.
        is_compact: write them in the compact layout.
        data_dir: the folder of the SentencePiece model, where it is not the checkpoint's own.
        trust: whether the teacher's code may run.
        force: replace what is there.
        ranks: of this run; they train together, and the first writes.
        on_student: called with each student before it is trained.

    Raises:
        AsrCompressError: unreadable input, a student that cannot be, an output that exists; found before anything is trained.
    """
    path, ranks = Path(path), ranks or Ranks()
    outputs = [request.output for request in requests]
    if twice := [output for output in outputs if outputs.count(output) > 1]:
        raise AsrCompressError(f"-o {twice[0]}: is given twice; each student needs a file of its own")
    for output in outputs:
        check_artifact_output(path, output, force=force)
    teacher = open_source(path, data_dir=data_dir, trust=trust)
    job = make_job(teacher.family.TASK)
    students = [make_student(teacher, request.text, request.shrink, job.config.seed) for request in requests]
    for output, student in zip(outputs, students, strict=True):
        check_compact(student.source, is_compact=is_compact, name=f"-o {output}", other="ask for a smaller student")
        job.check(teacher, output, ranks)
    material = job.read(teacher, data_dir=data_dir, trust=trust, teacher=teacher)
    material = replace(material, shared=Teacher(teacher, is_shared=len(students) > 1))
    written = []
    for student, output in zip(students, outputs, strict=True):
        if ranks.rank == 0:
            on_student(student, output)
        training = Training(job, student.source, output, ranks, data_dir=data_dir, trust=trust, material=material)
        content = training(_content(student, teacher, is_compact=is_compact), {})

        def write(
            content: ArtifactContent = content,
            output: Path = output,
            training: Training = training,
            student: Student = student,
        ) -> WrittenArtifact:
            def describe(written: Source) -> dict[str, Any]:
                return training.describe(written) | {"student": student.record}

            return write_artifact(output, content, teacher, dict(content.recipe), force=force, training=describe)

        written.append(training.finish(write))
    return written


def _content(student: Student, teacher: Source, *, is_compact: bool) -> ArtifactContent:
    """What a file with the student holds before training: all of it in float."""
    sites = find_sites(student.source)
    recipe: dict[str, Any] = {"level": "float", "distilled": {"student": student.record["sizes"]}}
    if is_compact:
        recipe["compact"] = True
    if teacher.content:
        earlier = dict(teacher.content.recipe)
        recipe["previous"] = [*earlier.pop("previous", []), earlier]
    floats = left_in_float(student.source.tensors, (), sites)
    return assemble_step(student.source, recipe, tied_names(sites), {}, floats, {})
