"""The command `sensitivity`: what it prints where, and what it refuses in one line."""

from __future__ import annotations

import json
import re
import shutil
from collections import OrderedDict
from pathlib import Path

import pytest
import torch

from asrcompress.ops.plan_file import read_plan
from tests.cli.conftest import Run
from tests.conftest import ROOT
from tests.docs.test_cli_docs import COMMANDS, commands_in

MODEL = ROOT / "samples" / "kws" / "crnn_computer.pt"
SPEECH = ["--data", ROOT / "samples" / "kws" / "manifest.tsv", "--split", "dev", "--keyword", "computer"]
# Enough of a table for what is not about its figures.
QUICK = ["--bits", "8,2", "--patterns", "none", "--top", 0, "--sample", 0, "--limit", 12]


def refused(run: Run, *arguments: object, words: str) -> None:
    """One line on stderr, exit code 2, and the folder as it was."""
    before = {path: path.read_bytes() for path in Path().iterdir() if path.is_file()}
    result = run("sensitivity", *arguments)
    assert (result.returncode, result.stdout) == (2, ""), result.stderr
    assert len(result.stderr.splitlines()) == 1 and result.stderr.startswith("asrcompress: "), result.stderr
    assert words in result.stderr, result.stderr
    assert {path: path.read_bytes() for path in Path().iterdir() if path.is_file()} == before


# ---------------------------------------------------------------- what it says


def test_paths_go_to_stdout_and_the_table_to_stderr(run: Run) -> None:
    result = run("sensitivity", MODEL, *SPEECH, *QUICK, "-o", "t.json")
    assert result.returncode == 0 and result.stdout == "t.json\n"
    assert sorted(path.name for path in Path().iterdir()) == ["t.html", "t.json", "t.svg"]
    head = result.stderr.splitlines()
    assert head[0].startswith("crnn_computer.pt: loss ") and "on manifest.tsv" in head[0]
    assert "\x1b" not in result.stderr and "left" not in result.stderr  # no progress where there is no terminal
    assert "What to leave alone" in result.stderr and "carry it out" not in result.stderr


def test_json_goes_to_stdout_alone_and_a_plan_says_how_to_carry_it_out(run: Run) -> None:
    result = run("sensitivity", MODEL, *SPEECH, *QUICK, "-o", "t.json", "--json", "--target-size-ratio", 0.15)
    assert result.returncode == 0, result.stderr
    assert json.loads(result.stdout) == json.loads(Path("t.json").read_text())
    line = result.stderr.splitlines()[-1]
    assert line.startswith("t.plan.toml: plans ")
    command = line.partition("carry it out: asrcompress ")[2].replace("-o FILE", "-o q.safetensors")
    carried = run(*command.split())
    assert carried.returncode == 0, carried.stderr
    facts = read_plan("t.plan.toml").facts
    assert Path("q.safetensors").stat().st_size <= facts.budget_bytes == int(0.15 * facts.model_size_bytes)


def test_a_plan_that_needs_no_speech_says_so(run: Run) -> None:
    options = ["--method", "rtn", "--target-size-ratio", 0.2, "-o", "t.json"]
    result = run("sensitivity", MODEL, *SPEECH, *QUICK, *options)
    assert result.stderr.splitlines()[-1].endswith(f"asrcompress quantize {MODEL} --plan t.plan.toml -o FILE")
    assert run("quantize", MODEL, "--plan", "t.plan.toml", "-o", "q.safetensors").returncode == 0


def test_the_example_in_help_runs(run: Run) -> None:
    Path("samples").symlink_to(ROOT / "samples")
    examples = commands_in(COMMANDS["sensitivity"].help)
    assert [example[1] for example in examples] == ["sensitivity", "quantize"]
    for example in examples:
        result = run(*example[1:])
        assert result.returncode == 0, result.stderr
    assert Path("planned.safetensors").is_file()
    assert re.search(r"bytes predicted, \d+ written \([+-]0\.\d\d%\), budget", result.stderr)


@pytest.mark.parametrize(
    ("options", "targets", "bits", "patterns"),
    [
        (["--weights-only", "--patterns", "none", "--bits", "4"], {"weight"}, {4}, {None}),
        (["--bits", "1", "--patterns", "none"], {"weight"}, {1}, {None}),
        (["--bits", "1,8", "--patterns", "1:4"], {"weight", "activations"}, {1, 8}, {None, "1:4"}),
        (["--bits", "2", "--patterns", " 2:4 , 1:8"], {"weight", "activations"}, {2}, {None, "2:4", "1:8"}),
    ],
)
def test_rows_and_columns_are_those_asked_for(
    run: Run, options: list[str], targets: set[str], bits: set[int], patterns: set[str | None]
) -> None:
    quick = ["--top", 1, "--sample", 2, "--limit", 12]
    result = run("sensitivity", MODEL, *SPEECH, *quick, *options, "-o", "t.json", "--json", "--target-size-ratio", 0.9)
    assert result.returncode == 0, result.stderr
    record = json.loads(result.stdout)
    cells = [
        (unit["target"], cell["num_bits"], cell["pattern"]) for unit in record["units"] for cell in unit["options"]
    ]
    assert {target for target, _, _ in cells} == targets
    assert {num_bits for _, num_bits, _ in cells} == bits and {pattern for _, _, pattern in cells} == patterns
    assert not any(num_bits == 1 or pattern for target, num_bits, pattern in cells if target == "activations")
    plan = read_plan("t.plan.toml")
    assert {rule.method for rule in plan.options["rules"] if rule.bits == 1} <= {"binary"}
    result = run("quantize", MODEL, "--plan", "t.plan.toml", "--calibrate", SPEECH[1], "-o", "q.safetensors")
    assert result.returncode == 0, result.stderr


# ---------------------------------------------------------------- what it refuses


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["-o", "t.txt"], "-o t.txt: the table is JSON"),
        (["-o", "no/such/t.json"], "does not exist"),
        (["-o", "/proc/t.json"], "/proc/t.json: cannot be written"),
        (["--bits", "5"], "has 8 or 4 or 3 or 2 bits, not 5"),
        (["--bits", "x"], "--bits x: give numbers such as 8,4,3,2"),
        (["--bits", ""], "give numbers such as 8,4,3,2"),
        (["--bits", "8,8"], "--bits 8,8: give each number once"),
        (["--bits", "8", "--method", "binary"], "--method binary has 1 bits, not 8"),
        (["--patterns", "4:2"], "pattern '4:2': use keep_n:group_m"),
        (["--patterns", "2:4,2:4"], "--patterns 2:4,2:4: give each pattern once"),
        (["--patterns", ""], "pattern ''"),
        (["--top", "-1"], "--top -1: use 0 to"),
        (["--sample", "-1"], "--sample -1: use 0 to"),
        (["--seed", "-1"], "--seed -1: use 0 to"),
        (["--limit", "0"], "--limit 0: use 1 to"),
        (["--limit", "1"], "so there is no curve"),
        (["--calibration-limit", "0"], "--calibration-limit 0: use 1 to"),
        (["--batch-size", "0"], "--batch-size"),
        (["--threads", "1000"], "--threads 1000"),
        (["--method", "magic"], "method 'magic' is not known"),
        (["--level", "deep"], "--level deep: use stored"),
        (["--granularity", "per_row"], "granularity 'per_row'"),
        (["--granularity", "per_group:7", "--limit", "6"], "--exclude 'conv.0.weight'"),
        (["--sparsifier", "magic"], "sparsifier 'magic' is not known"),
        (["--exclude", "nothing.*"], "--exclude 'nothing.*' fits no weight"),
        (["--exclude", "gru.weight_hh*"], "a GRU is packed whole or not at all"),
        (["--split", "train"], "has no split 'train'"),
        (["--keyword", "zork"], "no clip has the keyword 'zork'"),
        (["--target-size-ratio", "0"], "--target-size-ratio 0: use a fraction"),
        (["--target-size-ratio", "nan"], "--target-size-ratio nan: use a fraction"),
        (["--max-relative-wer", "-0.1"], "--max-relative-wer -0.1: use a fraction"),
        (["--target-size-ratio", "0.2", "--max-relative-wer", "0.1"], "a plan has one target"),
        (["--from", "t.json"], "say what for with --target-size-ratio or --max-relative-wer"),
        (["--from", "t.json", "--target-size-ratio", "0.2"], "t.json: no such file"),
        (["--from", "t.json", "--target-size-ratio", "0.2", "--bits", "8,4,3,2"], "--bits: with --from, the table's own counts"),
        (["--from", "t.json", "--target-size-ratio", "0.2", "--weights-only"], "--weights-only: with --from, the table's"),
        (["--from", MODEL, "--target-size-ratio", "0.2"], "is a model, not a sidecar"),
    ],
)  # fmt: skip
def test_a_bad_option_is_one_line(run: Run, options: list[str], words: str) -> None:
    output = [] if "-o" in options else ["-o", "t.json"]
    refused(run, MODEL, *SPEECH, *options, *output, words=words)


def test_speech_that_is_not_there_or_not_of_the_models_task(run: Run, tiny_s2t: Path, tiny_speech: Path) -> None:
    for model, options, words in (
        (MODEL, [], "--data is missing"),
        (MODEL, ["--data", "none.tsv"], "none.tsv: no such file or folder"),
        (MODEL, ["--data", MODEL], "is not a text file"),
        (MODEL, ["--data", tiny_speech, "--keyword", "go"], "names no columns path and word"),
        (MODEL, SPEECH[:2], "has several splits; add --split"),
        (MODEL, SPEECH[:4], "which word is the keyword?"),
        (tiny_s2t, SPEECH[:2], "is a table of keyword clips"),
        (tiny_s2t, ["--data", tiny_speech, "--split", "dev"], "--split dev: is for keyword models"),
        (tiny_s2t, ["--data", tiny_speech, "--keyword", "go"], "--keyword go: is for keyword models"),
        ("none.pt", SPEECH, "none.pt: no such file"),
    ):
        refused(run, model, *options, "-o", "t.json", words=words)


def test_references_that_the_vocabulary_cannot_write(run: Run, tiny_wav2vec_ctc: Path, tiny_speech: Path) -> None:
    refused(
        run, tiny_wav2vec_ctc, "--data", tiny_speech, "-o", "t.json", words="none of 4 references can be written in the"
    )


def test_a_vocabulary_without_its_sentencepiece_model(
    run: Run, tiny_s2t: Path, tiny_speech: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "alone"
    shutil.copytree(tiny_s2t.parent, folder)
    (folder / "spm.model").unlink()
    refused(run, folder / tiny_s2t.name, "--data", tiny_speech, "-o", "t.json", words="give --data-dir")
    quick = [
        "--bits",
        "2",
        "--patterns",
        "none",
        "--top",
        0,
        "--sample",
        0,
        "--limit",
        2,
        "--weights-only",
        "-o",
        "t.json",
    ]
    given = ["--data-dir", tiny_s2t.parent]
    assert run("sensitivity", folder / tiny_s2t.name, "--data", tiny_speech, *given, *quick).returncode == 0


@pytest.mark.parametrize("name", ["t.json", "t.html", "t.svg", "t.plan.toml"])
def test_what_is_there_is_replaced_with_force_alone(run: Run, name: str) -> None:
    Path(name).write_text("mine")
    options = [MODEL, *SPEECH, *QUICK, "--target-size-ratio", 0.5, "-o", "t.json"]
    refused(run, *options, words=f"{name}: exists already")
    assert Path(name).read_text() == "mine"
    assert run("sensitivity", *options, "--force").returncode == 0
    assert Path(name).read_text() != "mine"


@pytest.mark.parametrize("value", [float("nan"), float("inf"), 1e38])
@pytest.mark.parametrize("options", [[], ["--weights-only"]])
def test_a_broken_checkpoint(run: Run, value: float, options: list[str]) -> None:
    tensors: OrderedDict[str, torch.Tensor] = torch.load(MODEL, weights_only=True)
    tensors["classifier.bias"][0] = value
    torch.save(tensors, "broken.pt")
    refused(run, "broken.pt", *SPEECH, *QUICK, *options, "-o", "t.json", words="; the checkpoint ")


def test_budgets_out_of_reach_say_how_far_and_what_would_help(run: Run) -> None:
    options = [MODEL, *SPEECH, *QUICK, "-o", "t.json"]
    result = run("sensitivity", *options, "--target-size-ratio", 0.05)
    assert (result.returncode, result.stdout) == (2, "") and len(result.stderr.splitlines()) == 1
    found = re.fullmatch(
        r"asrcompress: a budget of 14088 bytes \(ratio 0\.0500\) is (\d+) bytes below the smallest possible file, (\d+) bytes "
        r"\(ratio (0\.\d{4})\), of which \d+ bytes are no weights; --bits 1 or --patterns 1:4 would give smaller options\n",
        result.stderr,
    )
    assert found and int(found[1]) == int(found[2]) - 14088
    assert [path.name for path in Path().iterdir()] == ["t.json.journal.rank0.jsonl"]
    ratio = float(found[3]) + 1e-4
    assert run("sensitivity", *options, "--target-size-ratio", ratio).returncode == 0
    refused(
        run, MODEL, *SPEECH, "--from", "t.json", "-o", "p.toml", "--target-size-ratio", 0.05, words="(ratio 0.0500)"
    )
    assert read_plan("t.plan.toml").facts.size_bytes == int(found[2])


def test_from_a_table_writes_a_plan_beside_it_and_no_table(run: Run) -> None:
    assert run("sensitivity", MODEL, *SPEECH, *QUICK, "-o", "t.json").returncode == 0
    again = [MODEL, *SPEECH, "--from", "t.json", "--target-size-ratio", 0.5]
    result = run("sensitivity", *again)
    assert (result.returncode, result.stdout) == (0, "t.plan.toml\n"), result.stderr
    refused(run, *again, words="t.plan.toml: exists already")
    refused(run, *again, "-o", "p.json", words="which is TOML; give a name that ends in .toml")
    refused(run, *again, "--keyword", "compute", "-o", "p.toml", words="t.json: was made with another keyword")
    refused(run, *again, "--split", "test", "-o", "p.toml", words="t.json: was made with another speech")
    Path("cut.json").write_text(Path("t.json").read_text()[:900])
    refused(run, MODEL, *SPEECH, "--from", "cut.json", "--target-size-ratio", 0.5, words="cut.json: is not JSON")
    assert run("eval", MODEL, *SPEECH, "-o", "e.json").returncode == 0
    refused(run, MODEL, *SPEECH, "--from", "e.json", "--target-size-ratio", 0.5, words="is no sensitivity table")
