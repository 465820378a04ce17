"""`asrcompress distill`: what is written and said, on the samples that ship, what it chains into, and what is refused."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from asrcompress.artifact import load_artifact
from asrcompress.ops.distill import DEFAULTS
from asrcompress.ops.finetune_config import FinetuneConfig
from tests.cli.conftest import Run
from tests.conftest import ROOT

TEACHER, CLIPS = ROOT / "samples" / "kws" / "crnn_computer.pt", ROOT / "samples" / "kws" / "manifest.tsv"
SPEECH = ROOT / "samples" / "asr"
STUDENT = "kws_crnn:channels=2,hidden=12"


@pytest.fixture(scope="module")
def data(few_clips: Path) -> list[object]:
    """Twelve clips to train on, and another twelve, of both kinds, to be judged on."""
    return [
        "--data",
        CLIPS,
        "--split",
        "dev",
        "--dev",
        few_clips,
        "--keyword",
        "computer",
        "--limit",
        12,
        "--batch-size",
        4,
    ]


def read(path: str) -> dict:
    return json.loads(Path(path).read_text())


def test_a_student_is_written_as_it_was_measured(run: Run, data: list[object]) -> None:
    done = run(
        "distill", TEACHER, "--student", STUDENT, *data, "--epochs", 2, "--evaluations", 1, "-o", "s.safetensors"
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout == "s.safetensors\n"
    assert sorted(path.name for path in Path().iterdir()) == ["s.safetensors", "s.safetensors.json"]
    record = read("s.safetensors.json")
    training, options = record["training"], record["training"]["options"]
    assert "s.safetensors: 3,133 parameters, 4.45% of the teacher's; 0.0% of them start as the teacher's" in done.stderr
    assert record["metrics"]["num_params"] == 3133
    assert record["parent"]["file"] == "crnn_computer.pt"
    assert training["teacher_sha256"] == record["parent"]["sha256"]
    assert training["num_updates"] == 6
    # What is not said is what the help says.
    wanted = DEFAULTS["keyword"] | {"epochs": 2, "evaluations": 1, "batch_size": 4, "limit": 12}
    assert options | wanted | {"augment": options["augment"]} == options
    assert options["augment"] == "shift=100,gain=8,noise=5,babble=5,specaugment=6x12,variants=24"
    best = training["best"]
    assert best in training["history"]
    assert training["written"] == {"metric": best["metric"], "loss": best["loss"]}
    done = run("eval", "s.safetensors", "--data", data[5], "--keyword", "computer")
    assert done.returncode == 0, done.stderr
    assert read("s.safetensors.eval.json")["metrics"]["au_fa_fr"] == pytest.approx(best["metric"], rel=1e-12)


def test_a_student_goes_on_to_a_grid_with_its_teacher(run: Run, data: list[object]) -> None:
    made = run("distill", TEACHER, "--student", STUDENT, *data, "--epochs", 1, "-o", "s.safetensors")
    tune = ["--finetune", *data[1:2], "--finetune-split", "dev", *data[4:8], "--finetune-limit", 8, "--epochs", 1]
    done = run("quantize", "--bits", 4, "--teacher", TEACHER, *tune, "-o", "q.safetensors", stdin=made.stdout)
    assert done.returncode == 0, done.stderr
    record = read("q.safetensors.json")
    assert record["training"]["teacher_sha256"] == read("s.safetensors.json")["parent"]["sha256"]
    assert record["recipe"]["previous"][0]["distilled"]["student"]["channels"] == 2
    weights = load_artifact("q.safetensors").quantized
    assert len(weights) == 8
    assert {weight.num_bits for weight in weights.values()} == {4}


def test_students_that_share_a_teacher_are_those_that_are_alone(run: Run, data: list[object]) -> None:
    sizes = ["kws_crnn:channels=2,hidden=12", "kws_crnn:channels=1,hidden=8"]
    both = [
        part
        for size, name in zip(sizes, "ab", strict=True)
        for part in ("--student", size, "-o", f"{name}.safetensors")
    ]
    done = run("distill", TEACHER, *both, *data, "--epochs", 1)
    assert done.returncode == 0, done.stderr
    assert done.stdout == "a.safetensors\nb.safetensors\n"
    for size, name in zip(sizes, "ab", strict=True):
        alone = run("distill", TEACHER, "--student", size, *data, "--epochs", 1, "-o", "alone.safetensors", "--force")
        assert alone.returncode == 0, alone.stderr
        assert Path("alone.safetensors").read_bytes() == Path(f"{name}.safetensors").read_bytes()


def test_a_student_may_be_compact(run: Run, data: list[object]) -> None:
    for name, more in (("plain", []), ("compact", ["--compact"])):
        done = run("distill", TEACHER, "--student", STUDENT, *data, "--epochs", 1, *more, "-o", f"{name}.safetensors")
        assert done.returncode == 0, done.stderr
    plain, compact = (load_artifact(f"{name}.safetensors").floats for name in ("plain", "compact"))
    assert plain.keys() == compact.keys() and all((plain[name] == compact[name]).all() for name in plain)
    # Names and offsets of 16 tensors go.
    assert Path("compact.safetensors").stat().st_size < Path("plain.safetensors").stat().st_size - 1000


def test_seeds_make_different_students(run: Run, data: list[object]) -> None:
    """From the start: nothing moves at this learning rate."""
    made = {}
    for seed in (1, 2):
        options = ["--epochs", 1, "--augment", "none", "--learning-rate", 1e-9, "--seed", seed]
        run("distill", TEACHER, "--student", STUDENT, *data, *options, "-o", f"{seed}.safetensors")
        made[seed] = load_artifact(f"{seed}.safetensors").floats["conv.0.weight"]
    assert (made[1] - made[2]).abs().max() > 0.01


def test_a_model_that_transcribes_shrinks(run: Run) -> None:
    Path("teacher.pt").write_bytes((SPEECH / "checkpoint_best.pt").read_bytes())  # away from its SentencePiece model
    done = run(
        "distill", "teacher.pt", "--data-dir", SPEECH, "--shrink", 0.5, "--data", SPEECH / "dev.tsv", "--dev", SPEECH / "test.tsv",
        "--limit", 4, "--batch-size", 2, "--epochs", 1, "-o", "half.safetensors",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    record = read("half.safetensors.json")
    options = record["training"]["options"]
    assert options | DEFAULTS["asr"] | {"epochs": 1, "batch_size": 2, "augment": ""} == options
    assert record["metrics"]["model_size_ratio"] < 0.6


def failed(run: Run, *arguments: object) -> str:
    """The one line that an error says; nothing was written."""
    before = sorted(Path().iterdir())
    done = run("distill", *arguments)
    assert done.returncode == 2, done.stderr
    assert done.stdout == ""
    assert sorted(Path().iterdir()) == before
    assert len(done.stderr.splitlines()) == 1, done.stderr
    return done.stderr


@pytest.mark.parametrize(
    ("options", "cause"),
    [
        ((TEACHER, "--student", STUDENT, "-o", "s.safetensors"), "--data is missing"),
        ((TEACHER, "--data", CLIPS, "-o", "s.safetensors"), "--student is missing"),
        ((TEACHER, "--data", CLIPS, "--student", STUDENT), "-o is given 0 times for 1 students"),
        (
            (TEACHER, "--data", CLIPS, "--student", STUDENT, "--shrink", 0.5, "-o", "s.safetensors"),
            "-o is given 1 times for 2 students",
        ),
        (
            (TEACHER, "--data", CLIPS, "--student", STUDENT, "-o", "s.safetensors", "-o", "t.safetensors"),
            "-o is given 2 times for 1 students",
        ),
        (
            (TEACHER, "--data", CLIPS, "--student", STUDENT, "--shrink", 0.5, "-o", "s.safetensors", "-o", "s.safetensors"),
            "-o s.safetensors: is given twice",
        ),
        ((TEACHER, "--data", CLIPS, "--student", STUDENT, "-o", "s.pt"), "-o s.pt: the artifact is a safetensors file"),
        ((TEACHER, "--data", CLIPS, "--student", "s2t_transformer", "-o", "s.safetensors"), "and so is its student"),
        ((TEACHER, "--data", CLIPS, "--student", STUDENT, "--augment", "echo", "-o", "s.safetensors"), "--augment echo: is unknown"),
        ((TEACHER, "--data", "none.tsv", "--student", STUDENT, "-o", "s.safetensors"), "none.tsv: no such file"),
        (
            (SPEECH / "checkpoint_best.pt", "--data", SPEECH / "dev.tsv", "--shrink", 0.5, "-o", "s.safetensors"),
            f"--data {SPEECH / 'dev.tsv'}: needs --dev",
        ),
        ((SPEECH / "checkpoint_best.pt", "--data", SPEECH / "dev.tsv", "--shrink", 1, "--compact", "-o", "s.safetensors"), "--compact is for"),
        (("none.pt", "--data", CLIPS, "--student", STUDENT, "-o", "s.safetensors"), "none.pt: no such file"),
    ],
)  # fmt: skip
def test_what_cannot_be_is_one_line(run: Run, options: tuple[object, ...], cause: str) -> None:
    assert cause in failed(run, *options)


@pytest.mark.parametrize(
    ("name", "cause"),
    [
        ("b.safetensors", "b.safetensors: exists"),
        ("b.training.safetensors", "b.training.safetensors: a training was stopped here"),
    ],
)
def test_what_is_in_the_way_of_the_second_student_is_found_before_the_first_is_trained(
    run: Run, data: list[object], name: str, cause: str
) -> None:
    Path(name).write_bytes(b"")
    two = ["--student", STUDENT, "--shrink", 0.5, "-o", "a.safetensors", "-o", "b.safetensors"]
    assert cause in failed(run, TEACHER, *two, *data, "--epochs", 1)


def test_students_by_sizes_come_before_those_by_a_factor(run: Run, data: list[object]) -> None:
    """Of a teacher that was compressed: it is taken as it is, with all that was done to it in the record."""
    done = run("sparsify", TEACHER, "--pattern", "2:4", "-o", "sparse.safetensors")
    done = run("quantize", "--bits", 8, "-o", "teacher.safetensors", stdin=done.stdout)
    assert done.returncode == 0, done.stderr
    two = ["--shrink", 0.25, "--student", STUDENT, "-o", "sized.safetensors", "-o", "quarter.safetensors"]
    done = run("distill", *two, *data, "--epochs", 1, "--augment", "none", stdin=done.stdout)
    assert done.returncode == 0, done.stderr
    sized, quarter = read("sized.safetensors.json"), read("quarter.safetensors.json")
    assert (sized["training"]["student"]["shrink"], quarter["training"]["student"]["shrink"]) == (None, 0.25)
    assert sized["metrics"]["num_params"] == 3133
    first, second = sized["recipe"]["previous"]
    assert (first["pattern"], second["num_bits"]) == ("2:4", 8)


def test_trust_is_told_of(run: Run) -> None:
    done = run(
        "distill", TEACHER, "--data", "none.tsv", "--student", STUDENT, "--trust-checkpoint", "-o", "s.safetensors"
    )
    assert done.returncode == 2
    assert f"--trust-checkpoint: {TEACHER} names nothing that needs trust" in done.stderr


def test_a_recipe_may_say_how_a_student_is_trained(run: Run, data: list[object]) -> None:
    Path("r.toml").write_text("[finetune]\nepochs = 1\ntemperature = 3\naugment = 'gain=2'\n")
    given = ["--config", "r.toml", "--temperature", 4]
    done = run("distill", TEACHER, "--student", STUDENT, *data, *given, "-o", "s.safetensors")
    assert done.returncode == 0, done.stderr
    options = read("s.safetensors.json")["training"]["options"]
    assert (options["epochs"], options["temperature"], options["augment"]) == (1, 4, "gain=2")
    Path("masks.toml").write_text("[finetune]\nsr_ste = 0.1\n")
    for name, value in (("bits", "2"), ("pattern", "'2:4'")):
        Path("other.toml").write_text(f"{name} = {value}\n")
        line = failed(run, TEACHER, "--student", STUDENT, *data, "--config", "other.toml", "-o", "t.safetensors")
        assert f"other.toml: '{name}' is not an option of distill" in line
    line = failed(run, TEACHER, "--student", STUDENT, *data, "--config", "masks.toml", "-o", "t.safetensors")
    assert "masks.toml: [finetune]: 'sr_ste' is about compressed weights, and a student is float" in line


def test_help_says_the_defaults_that_hold(run: Run) -> None:
    done = run("distill", "--help")
    text = " ".join(done.stdout.split())
    for task, words in (("keyword", "for keywords"), ("asr", "for ASR")):
        for name in ("epochs", "learning_rate", "distillation", "temperature", "evaluations", "batch_size"):
            value = DEFAULTS[task].get(name, getattr(FinetuneConfig(), name))
            option = text.split(f"--{name.replace('_', '-')} <")[1].split("]")[0]
            said = {
                part.split(" for ")[1].rstrip(")"): part.split(" for ")[0]
                for part in option.split("[default: ")[1].split(", ")
            }
            assert float(said[words.removeprefix("for ")]) == value, name
