"""`--finetune`: what is written, recorded and said, on the samples that ship; what is refused, before any work is done."""

from __future__ import annotations

import dataclasses
import inspect
import json
import math
import re
import shutil
from pathlib import Path

import pytest
import torch

from asrcompress.cli.finetune_options import _options
from asrcompress.ops.finetune_config import FinetuneConfig
from asrcompress.ops.learner import Learner
from asrcompress.training.trainer import Trainer
from tests.cli.conftest import Run
from tests.conftest import ROOT

MODEL, CLIPS = ROOT / "samples" / "kws" / "crnn_computer.pt", ROOT / "samples" / "kws" / "manifest.tsv"
SPEECH = ROOT / "samples" / "asr"
TRAIN = [
    "--finetune",
    CLIPS,
    "--finetune-split",
    "dev",
    "--dev-split",
    "test",
    "--keyword",
    "computer",
    "--finetune-limit",
    12,
]
ONE = ["--epochs", 1, "--batch-size", 4]
QUICK = [*TRAIN, *ONE]
SPARSE = ["--pattern", "2:4", "--exclude", "conv*"]
STATE = "a.training.safetensors"


@pytest.fixture(scope="module")
def train(few_clips: Path) -> list[object]:
    """Twelve clips to train on, and another twelve, of both kinds, to be judged on."""
    return [
        "--finetune",
        CLIPS,
        "--finetune-split",
        "dev",
        "--dev",
        few_clips,
        "--keyword",
        "computer",
        "--finetune-limit",
        12,
    ]


def read(path: str) -> dict:
    return json.loads(Path(path).read_text())


def quantize(run: Run, *arguments: object, model: Path = MODEL):
    return run("quantize", model, "-o", "a.safetensors", "--bits", 4, *arguments)


def failed(run: Run, *arguments: object, model: Path = MODEL) -> str:
    """The one line that an error says; nothing was written."""
    before = sorted(Path().iterdir())
    done = quantize(run, *arguments, model=model)
    assert done.returncode == 2, done.stderr
    assert done.stdout == ""
    assert sorted(Path().iterdir()) == before
    lines = [line for line in done.stderr.splitlines() if not line.startswith("fine-tune: ")]
    assert len(lines) == 1, done.stderr
    return lines[0]


def test_what_is_written_is_what_was_measured(run, train):
    done = quantize(run, *train, *ONE, *SPARSE)
    assert done.returncode == 0, done.stderr
    assert done.stdout == "a.safetensors\n"
    assert sorted(path.name for path in Path().iterdir()) == ["a.safetensors", "a.safetensors.json"]
    training = read("a.safetensors.json")["training"]
    assert training["num_updates"] == 3
    assert training["options"] | {"epochs": 1, "batch_size": 4, "limit": 12} == training["options"]
    assert (training["train"]["split"], training["train"]["num_utterances"]) == ("val", 12)
    assert (training["dev"]["file"], training["dev"]["split"], training["dev"]["num_utterances"]) == (
        "few.tsv",
        None,
        12,
    )
    best = training["best"]
    assert best in training["history"]
    assert training["written"] == {"metric": best["metric"], "loss": best["loss"]}
    said = [line for line in done.stderr.splitlines() if line.startswith("fine-tune: update")]
    assert len(said) == len(training["history"]) == 2
    assert f"dev AU FA-FR {training['history'][0]['metric']:.3e}, loss {training['history'][0]['loss']:.4f}" in said[0]
    # eval, in its own way and from the file, comes to the same.
    done = run("eval", "a.safetensors", "--data", train[5], "--keyword", "computer")
    assert done.returncode == 0, done.stderr
    assert read("a.safetensors.eval.json")["metrics"]["au_fa_fr"] == pytest.approx(best["metric"], rel=1e-12)


def test_a_model_that_transcribes(run):
    options = [
        "--finetune",
        SPEECH / "dev.tsv",
        "--finetune-limit",
        4,
        "--batch-size",
        2,
        "--epochs",
        1,
        "--dev",
        "few.tsv",
    ]
    rows = (SPEECH / "dev.tsv").read_text().splitlines()
    Path("few.tsv").write_text("\n".join(rows[:4]) + "\n")
    options += ["--audio-root", SPEECH]
    done = quantize(run, *options, model=SPEECH / "checkpoint_best.pt")
    assert done.returncode == 0, done.stderr
    training = read("a.safetensors.json")["training"]
    assert training["metric"] == "wer"
    assert re.search(r"dev WER \d+\.\d\d%", done.stderr)
    done = run("eval", "a.safetensors", "--data", "few.tsv", "--audio-root", SPEECH, "--beam", 1)
    assert done.returncode == 0, done.stderr
    assert read("a.safetensors.eval.json")["metrics"]["wer"] == pytest.approx(training["written"]["metric"], rel=1e-12)


def test_sparsify_trains_what_is_left(run, train):
    done = run("sparsify", MODEL, "-o", "a.safetensors", *SPARSE, *train, *ONE, "--mask-schedule", "every-step")
    assert done.returncode == 0, done.stderr
    training = read("a.safetensors.json")["training"]
    assert training["written"]["metric"] == training["best"]["metric"]
    assert training["options"]["mask_schedule"] == "every-step"


def test_a_recipe_has_a_table_for_it_and_the_command_line_has_the_last_word(run, train):
    Path("r.toml").write_text("bits = 4\n[finetune]\nepochs = 3.0\nbatch_size = 4\nlearning_rate = 0.002\n")
    done = run("quantize", MODEL, "-o", "a.safetensors", "--config", "r.toml", *train, "--epochs", 1)
    assert done.returncode == 0, done.stderr
    options = read("a.safetensors.json")["training"]["options"]
    assert (options["epochs"], options["batch_size"], options["learning_rate"]) == (1, 4, 0.002)
    Path("a.safetensors").unlink()
    Path("a.safetensors.json").unlink()
    Path("r.toml").write_text("bits = 4\n[finetune]\nepoch = 3.0\n")
    assert "r.toml: 'epoch' is not an option of [finetune]" in failed(run, "--config", "r.toml", *TRAIN)


class Interrupt:
    """Ctrl-C in the middle of an update."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, at: int) -> None:
        update, left = Trainer._update, at

        def stopped(trainer, batch):
            nonlocal left
            left -= 1
            if left < 0:
                raise KeyboardInterrupt
            return update(trainer, batch)

        monkeypatch.setattr(Trainer, "_update", stopped)


def test_stopped_and_resumed_is_as_if_it_had_not_been(run, train, monkeypatch):
    options = [*train, "--epochs", 2, "--batch-size", 4, *SPARSE, "--mask-schedule", "every-step"]
    done = quantize(run, *options)
    assert done.returncode == 0, done.stderr
    whole, record = Path("a.safetensors").read_bytes(), read("a.safetensors.json")["training"]
    for name in ("a.safetensors", "a.safetensors.json"):
        Path(name).unlink()
    with monkeypatch.context() as patch:
        Interrupt(patch, 4)
        stopped = quantize(run, *options)
    assert stopped.returncode == 130
    assert [path.name for path in Path().iterdir()] == [STATE]
    assert f"{STATE} holds update 3, and the same command with --resume goes on from it" in stopped.stderr
    assert "Traceback" not in stopped.stderr

    in_the_way = failed(run, *options)
    assert STATE in in_the_way
    assert "--resume" in in_the_way
    other = failed(run, *options, "--seed", 2, "--resume")
    assert STATE in other
    assert "other data or options" in other

    teacher = torch.load(MODEL)
    torch.save(teacher | {"classifier.bias": teacher["classifier.bias"] + 1}, "teacher.pt")
    assert "other data or options" in failed(run, *options, "--teacher", "teacher.pt", "--resume")

    resumed = quantize(run, *options, "--resume")
    assert resumed.returncode == 0, resumed.stderr
    assert Path("a.safetensors").read_bytes() == whole
    assert read("a.safetensors.json")["training"] == record
    assert not Path(STATE).exists()


def test_force_begins_anew(run, train, monkeypatch):
    with monkeypatch.context() as patch:
        Interrupt(patch, 0)
        assert quantize(run, *train, *ONE).returncode == 130
    assert Path(STATE).exists()
    done = quantize(run, *train, *ONE, "--force")
    assert done.returncode == 0, done.stderr
    assert "update 0/3" in done.stderr
    assert not Path(STATE).exists()


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--epochs", 3], "--epochs: is for fine-tuning; add --finetune TRAIN"),
        (["--resume"], "--resume: is for fine-tuning"),
        (["--finetune-limit", 3], "--finetune-limit: is for fine-tuning"),
        ([*QUICK, "--epochs", 0], "--epochs 0.0: use above 0"),
        ([*QUICK, "--learning-rate", "nan"], "--learning-rate nan: use above 0 and at most 1"),
        ([*QUICK, "--distillation", 1.5], "--distillation 1.5: use 0 to 1"),
        ([*QUICK, "--batch-size", 0], "--batch-size 0: use 1 to"),
        ([*QUICK, "--finetune-limit", 0], "--finetune-limit 0: use 1 or more"),
        ([*QUICK, "--mask-schedule", "often"], "--mask-schedule often: use one-shot, few-shot, every-step"),
        ([*QUICK, "--scales", "free"], "--scales free: use learned, mse, fixed"),
        ([*QUICK, "--precision", "bfloat16"], "--precision bfloat16: is for CUDA"),
        ([*QUICK, "--device", "tpu"], "--device tpu: use cpu or cuda"),
        ([*QUICK, "--parallel", "sharded"], "--parallel sharded: splits the model over ranks; start them with torchrun"),
        ([*QUICK, "--dev-split", "later"], "manifest.tsv: has no split 'later'"),
        ([*QUICK, "--teacher", "gone.pt"], "gone.pt"),
        ([*QUICK, "--teacher", SPEECH / "checkpoint_best.pt"], "is a s2t_transformer and cannot teach"),
        (["--finetune", "gone.tsv", "--keyword", "computer"], "gone.tsv: no such file or folder"),
        (["--finetune", "gone.tsv", "--keyword", "computer", "--teacher", SPEECH / "checkpoint_best.pt"], "cannot teach"),
        (["--finetune", CLIPS, "--finetune-split", "dev", "--keyword", "computer"], "add --dev, speech that decides"),
        (["--finetune", CLIPS, "--keyword", "computer"], "manifest.tsv: has several splits; add --finetune-split"),
    ],
)  # fmt: skip
def test_refused(arguments, said, run):
    line = failed(run, *arguments)
    assert said in line, line


def test_a_model_that_transcribes_needs_dev(run):
    line = failed(run, "--finetune", SPEECH / "dev.tsv", model=SPEECH / "checkpoint_best.pt")
    assert "dev.tsv: needs --dev" in line


def test_an_output_in_the_way_is_found_before_any_work(run, monkeypatch):
    Path("a.safetensors").write_text("mine")
    monkeypatch.setattr(Trainer, "run", lambda *args, **more: pytest.fail("trained"))
    line = failed(run, *QUICK)
    assert line.startswith("asrcompress: a.safetensors: ")
    assert "--force" in line
    assert Path("a.safetensors").read_text() == "mine"


def test_a_training_that_blows_up_is_one_line_and_leaves_its_last_state(run, train, monkeypatch):
    forward, count = Learner.forward, 0

    def broken(learner, positions, weight, update):
        nonlocal count
        count += 1  # the first is a look at what has gradients
        return forward(learner, positions, weight, update) * (math.nan if count == 3 else 1.0)

    monkeypatch.setattr(Learner, "forward", broken)
    done = quantize(run, *train, *ONE)
    assert done.returncode == 2
    assert re.match(r"asrcompress: update 2: the training loss is nan; .*--learning-rate", done.stderr.splitlines()[-1])
    assert [path.name for path in Path().iterdir()] == [STATE]


def test_a_folder_of_clips_without_splits_is_trained_on_as_it_is(run):
    for word in ("computer", "number"):
        (Path("clips") / word).mkdir(parents=True)
        for clip in sorted((CLIPS.parent / "clips").glob(f"dev_*_{word}.flac"))[:3]:
            shutil.copy(clip, Path("clips") / word)
    done = quantize(
        run, "--finetune", "clips", "--dev", CLIPS, "--dev-split", "dev", "--keyword", "computer", "--epochs", 1
    )
    assert done.returncode == 0, done.stderr
    training = read("a.safetensors.json")["training"]
    assert (training["train"]["split"], training["dev"]["split"]) == (None, "val")
    line = failed(run, "--finetune", "clips", "--keyword", "computer", "--force")
    assert "clips: has nothing apart from what it trains on; add --dev" in line


def test_help_says_the_defaults_that_hold(run):
    """The options' help against the configuration: `[default: X]` of each."""
    text = {
        name: inspect.cleandoc(parameter.annotation.__metadata__[0].help)
        for name, parameter in inspect.signature(_options, eval_str=True).parameters.items()
    }
    for field in dataclasses.fields(FinetuneConfig):
        if field.default is None or field.type == "bool":
            continue
        (said,) = re.findall(r"\[default: ([^]]+)\]", text[field.name])
        assert type(field.default)(said) == field.default or (said, field.default) == ("none", ""), field.name


@pytest.mark.parametrize(("rate", "is_said"), [("1", True), ("1e-4", False)])
def test_a_training_without_a_gain_is_said_with_the_way_out(run: Run, tmp_path: Path, rate: str, is_said: bool) -> None:
    out = tmp_path / "a.safetensors"
    options = ["--bits", 4, *TRAIN, "--epochs", 4, "--batch-size", 4, "--learning-rate", rate]
    said = run("quantize", MODEL, *options, "-o", out)
    training = json.loads(Path(f"{out}.json").read_text())["training"]
    assert (training["best"]["update"] == 0) == is_said
    assert ("better than the start" in said.stderr and "try --learning-rate 3e-01" in said.stderr) == is_said
