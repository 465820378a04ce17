"""`distill` and `quantize --finetune` with all parts of a teacher: what is recorded, what is shared, what is refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import jsonschema
import pytest

from asrcompress.ops import finetune_job
from asrcompress.ops.finetune import Speech
from asrcompress.ops.teacher import Teacher
from tests.cli.conftest import Run
from tests.conftest import ROOT

TEACHER, CLIPS = ROOT / "samples" / "kws" / "crnn_computer.pt", ROOT / "samples" / "kws" / "manifest.tsv"
SPEECH = ROOT / "samples" / "asr"
ALL = ["--attention-loss", 0.5, "--hidden-loss", 0.25]
SHORT = ["--epochs", 1, "--batch-size", 4]
KWS = ["--split", "dev", "--dev", CLIPS, "--dev-split", "test", "--keyword", "computer", "--limit", 8, *SHORT]
SCHEMA = json.loads((ROOT / "docs" / "sidecar.schema.json").read_text())


def training_of(path: str) -> dict[str, Any]:
    """A sidecar's record of the training, once the whole is what the schema says."""
    record = json.loads(Path(path).read_text())
    jsonschema.validate(record, SCHEMA)
    training: dict[str, Any] = record["training"]
    return training


def test_a_transcribing_student_learns_the_teachers_transcripts_and_layers(
    run: Run, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    learned: list[Speech] = []
    tune = finetune_job.finetune

    def listened(source: Any, content: Any, config: Any, speech: Speech, **named: Any) -> Any:
        learned.append(speech)
        return tune(source, content, config, speech, **named)

    monkeypatch.setattr(finetune_job, "finetune", listened)
    table = tmp_path / "alike.tsv"  # everybody says the same, as far as the references go
    head, *rows = [line.split("\t") for line in (SPEECH / "dev.tsv").read_text().splitlines()]
    lines = [
        [name, str(SPEECH / audio), length, "open the window", speaker] for name, audio, length, _, speaker in rows
    ]
    table.write_text("".join("\t".join(line) + "\n" for line in (head, *lines)))
    data = ["--data", table, "--dev", SPEECH / "test.tsv", "--limit", 6, *SHORT]
    done = run(
        "distill",
        SPEECH / "checkpoint_best.pt",
        "--shrink",
        0.5,
        *data,
        *ALL,
        "--sequence-level",
        "-o",
        "s.safetensors",
    )
    assert done.returncode == 0, done.stderr
    training = training_of("s.safetensors.json")
    assert (
        training["options"] | {"attention_loss": 0.5, "hidden_loss": 0.25, "sequence_level": True}
        == training["options"]
    )
    assert training["transcripts"]["num_transcripts"] == 6
    assert len({tuple(target.tolist()) for target in learned[0].train.targets}) > 3
    assert training["transcripts"]["search"]["beam"] == 5
    assert training["layers"].keys() == {"attention", "hidden"}
    assert {stack for stack, _, _ in training["layers"]["attention"]} == {"encoder", "decoder", "cross"}
    assert training["history"][0]["parts"] is None
    assert training["history"][-1]["parts"].keys() == {"references", "output", "attention", "hidden"}


def test_two_students_share_what_the_teacher_makes_and_end_as_each_alone(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = []
    compute = Teacher._compute
    monkeypatch.setattr(
        Teacher,
        "_compute",
        lambda self, heard, *rest, **named: made.append(len(heard)) or compute(self, heard, *rest, **named),
    )
    small, smaller = "kws_crnn:channels=2,hidden=12", "kws_crnn:hidden=6,layers=1"
    command = ["distill", TEACHER, "--data", CLIPS, *KWS, *ALL, "--augment", "gain"]
    done = run(*command, "--student", small, "--student", smaller, "-o", "a.safetensors", "-o", "b.safetensors")
    assert done.returncode == 0, done.stderr
    both = sum(made)
    done = run(*command, "--student", smaller, "-o", "c.safetensors")
    assert done.returncode == 0, done.stderr
    assert sum(made) - both == both  # the second of two had nothing to ask
    one, other = training_of("b.safetensors.json"), training_of("c.safetensors.json")
    assert one == other
    assert Path("b.safetensors").read_bytes() == Path("c.safetensors").read_bytes()
    assert one["history"][-1]["parts"]["hidden"] > 0


def test_a_student_goes_on_to_learn_on_its_grid(run: Run) -> None:
    done = run("distill", TEACHER, "--data", CLIPS, *KWS, "--student", "kws_crnn:hidden=12", "-o", "s.safetensors")
    assert done.returncode == 0, done.stderr
    train = [
        "--finetune",
        CLIPS,
        "--finetune-split",
        "dev",
        "--dev-split",
        "test",
        "--keyword",
        "computer",
        "--finetune-limit",
        8,
    ]
    done = run(
        "quantize", "s.safetensors", "--bits", 4, *train, *SHORT, *ALL, "--teacher", TEACHER, "-o", "q.safetensors"
    )
    assert done.returncode == 0, done.stderr
    training = training_of("q.safetensors.json")
    assert training["layers"] == {"attention": [["encoder", 0, 0]], "hidden": [["encoder", 0, 0]]}
    assert training["written"]["metric"] == training["best"]["metric"]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        # before any speech is read
        (
            ["--student", "kws_crnn:hidden=12", "--sequence-level", "--data", "none.tsv"],
            "--sequence-level: is for models that",
        ),
        (["--student", "kws_crnn:stride=2x10", "--hidden-loss", 1], "cannot learn layer by layer from"),
        (["--student", "kws_crnn:hidden=12", "--hidden-loss", -1], "--hidden-loss -1.0: use 0 to"),
    ],
)
def test_refused(arguments: list[object], said: str, run: Run) -> None:
    done = run("distill", TEACHER, "--data", CLIPS, *KWS, *arguments, "-o", "s.safetensors")
    assert done.returncode == 2, done.stderr
    assert said in done.stderr.splitlines()[-1]
    assert not list(Path().iterdir())
