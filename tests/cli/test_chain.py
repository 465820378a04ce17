"""The commands as a pipeline: paths on stdout, words on stderr, exit codes a CI job can trust."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import jsonschema
import pytest

from tests.cli.conftest import Run
from tests.conftest import ROOT

ASRCOMPRESS = f"{sys.executable} -m asrcompress"


def shell(script: str, folder: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        ["bash", "-o", "pipefail", "-c", script],
        cwd=folder,
        capture_output=True,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )


def test_the_chain_and_its_gates(tiny_s2t: Path, tiny_speech: Path, tmp_path: Path) -> None:
    options = f"--data {tiny_speech} --beam 1 --max-len-b 6 --resamples 100"
    assert shell(f"{ASRCOMPRESS} eval {tiny_s2t} {options} -o float.eval.json", tmp_path).stdout == "float.eval.json\n"
    chain = (
        f"{ASRCOMPRESS} analyze {tiny_s2t} --duration-s 1 -o float.analyze.json"
        f" | {ASRCOMPRESS} quantize --bits 8 --activations int8 -o m.safetensors --force"
        f" | {ASRCOMPRESS} eval {options} --force"
        f" | {ASRCOMPRESS} report --baseline float.eval.json --require "
    )
    passed = shell(chain + "'ratio.model_size_bytes<=0.9' --junit gates.xml --html page.html", tmp_path)
    assert passed.returncode == 0, passed.stderr
    assert "m.safetensors" in passed.stdout and "PASS" in passed.stdout
    assert (tmp_path / "gates.xml").exists() and (tmp_path / "page.html").exists()
    (tmp_path / "float.analyze.json").unlink()
    failed = shell(chain + "'ratio.model_size_bytes<=0.01'", tmp_path)
    assert failed.returncode == 1, failed.stderr
    (tmp_path / "float.analyze.json").unlink()
    unmeasured = shell(chain + "'au_fa_fr<=1'", tmp_path)
    assert unmeasured.returncode == 2 and "au_fa_fr" in unmeasured.stderr


def test_every_real_sidecar_fits_the_schema(
    run: Run, tiny_s2t: Path, tiny_kws: Path, tiny_speech: Path, tmp_path: Path
) -> None:
    schema = json.loads((ROOT / "docs" / "sidecar.schema.json").read_text())
    validator = jsonschema.Draft202012Validator(schema)
    clips = "".join(f"{tiny_speech.parent / f'{number}.flac'}\t{word}\n" for number, word in enumerate("ababa"))
    (tmp_path / "clips.tsv").write_text("path\tword\n" + clips)
    for model, data in (
        (tiny_s2t, [tiny_speech, "--beam", 1, "--max-len-b", 5]),
        (tiny_kws, [tmp_path / "clips.tsv", "--keyword", "a"]),
    ):
        output = tmp_path / f"{model.stem}.safetensors"
        for arguments in (
            ["quantize", model, "-o", output, "--activations", "int8"],
            ["analyze", output], ["analyze", model, "-o", tmp_path / f"{model.stem}.float.analyze.json"],
            ["eval", output, "--data", *data], ["eval", model, "--data", *data, "-o", tmp_path / f"{model.stem}.float.eval.json"],
        ):  # fmt: skip
            result = run(*arguments)
            assert result.returncode == 0, result.stderr
    sidecars = sorted(tmp_path.glob("*.json"))
    assert len(sidecars) == 10
    for sidecar in sidecars:
        errors = [error.message for error in validator.iter_errors(json.loads(sidecar.read_text()))]
        assert not errors, (sidecar.name, errors)


def test_json_goes_to_stdout_alone(run: Run, tiny_kws: Path, tmp_path: Path) -> None:
    result = run("quantize", tiny_kws, "-o", tmp_path / "k.safetensors", "--json")
    assert json.loads(result.stdout) == json.loads((tmp_path / "k.safetensors.json").read_text())


def test_dry_run_writes_nothing(run: Run, tiny_kws: Path, tmp_path: Path) -> None:
    result = run("quantize", tiny_kws, "--dry-run", "--exclude", "conv*")
    assert result.returncode == 0
    assert "pack gru.weight_ih_l0" in result.stdout and "keep conv.0.weight" in result.stdout
    assert list((tmp_path / "work").iterdir()) == []


def test_a_recipe_and_the_command_line(run: Run, tiny_kws: Path, tmp_path: Path) -> None:
    (tmp_path / "r.toml").write_text('bits = 4\nactivations = "int8"\nexclude = ["conv*"]\n')
    result = run(
        "quantize", tiny_kws, "-o", tmp_path / "k.safetensors", "--config", tmp_path / "r.toml", "--bits", "3", "--json"
    )
    recipe = json.loads(result.stdout)["recipe"]
    assert (recipe["num_bits"], recipe["activations"], recipe["exclude"]) == (3, "int8", ["conv*"])


def test_an_empty_pipe_is_an_error(run: Run) -> None:
    for command in (["analyze"], ["quantize", "-o", "x"], ["eval", "--data", "x"], ["report"]):
        result = run(*command, stdin="")
        assert result.returncode == 2 and len(result.stderr.splitlines()) == 1, result.stderr


def test_a_reader_that_leaves_is_a_broken_pipe(tiny_kws: Path, tmp_path: Path) -> None:
    script = f"{ASRCOMPRESS} analyze {tiny_kws} --json -o a.json 2>/dev/null | true; echo ${{PIPESTATUS[0]}}"
    assert shell(script, tmp_path).stdout.strip() == "141"


@pytest.mark.parametrize("arguments", ["quantize {model} --bits 8 -o q.safetensors --json", "--help"])
@pytest.mark.parametrize(
    ("stdout", "said"), [(">/dev/full", "stdout: could not be written: No space"), (">&-", "stdout is closed")]
)
def test_a_stdout_that_takes_nothing_is_one_line(
    tiny_kws: Path, tmp_path: Path, arguments: str, stdout: str, said: str
) -> None:
    result = shell(f"{ASRCOMPRESS} {arguments.format(model=tiny_kws)} {stdout}", tmp_path)
    assert result.returncode == 2 and "Traceback" not in result.stderr
    assert result.stderr.splitlines()[-1].startswith(f"asrcompress: {said}")


@pytest.mark.parametrize("stderr", ["2>&-", "2>/dev/full"])
def test_without_stderr_data_and_codes_are_the_same(tiny_kws: Path, tmp_path: Path, stderr: str) -> None:
    result = shell(f"{ASRCOMPRESS} quantize {tiny_kws} --bits 8 -o q.safetensors {stderr}", tmp_path)
    assert (result.returncode, result.stdout) == (0, "q.safetensors\n")
    assert shell(f"{ASRCOMPRESS} report absent.json {stderr}", tmp_path).returncode == 2


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_an_interrupt_leaves_nothing(tiny_s2t: Path, tmp_path: Path, tiny_speech: Path, number: int, code: int) -> None:
    rows = "".join(f"{tiny_speech.parent / '4.flac'}\tgo\n" for _ in range(1))
    (tmp_path / "list.txt").write_text(rows)
    command = [
        sys.executable,
        "-m",
        "asrcompress",
        "eval",
        str(tiny_s2t),
        "--data",
        str(tiny_speech),
        "--resamples",
        "50000000",
    ]
    process = subprocess.Popen(
        [*command, "-o", str(tmp_path / "e.json")], stderr=subprocess.PIPE, stdout=subprocess.PIPE, cwd=tmp_path
    )
    time.sleep(8)
    assert process.poll() is None, "too fast to be interrupted"
    process.send_signal(number)
    process.communicate(timeout=60)
    assert process.returncode == code
    assert [path.name for path in tmp_path.iterdir()] == ["list.txt"]


def test_a_bug_is_exit_code_3(run: Run, tiny_kws: Path) -> None:
    script = (
        "import asrcompress.ops.quantize as q, asrcompress.cli.main as m, sys\nq.quantize = lambda *a, **k: 1 / 0\n"
    )
    script += f"sys.argv = ['asrcompress', 'quantize', {str(tiny_kws)!r}, '-o', 'x.safetensors']\nm.main()"
    result = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert result.returncode == 3 and "bug: ZeroDivisionError" in result.stderr


def test_version_and_help_load_no_torch() -> None:
    for argument in ("--version", "--help"):
        script = f"import sys; sys.argv = ['asrcompress', {argument!r}]; from asrcompress.cli.main import main\n"
        script += "try: main()\nexcept SystemExit: pass\n"
        script += "heavy = {'torch', 'numpy', 'fairseq', 'jiwer', 'soundfile', 'torchaudio'} & set(sys.modules)\nsys.exit(f'{heavy}' if heavy else 0)"
        result = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
        assert result.returncode == 0, result.stderr
