"""asrcompress export: what goes to stdout, what to stderr, and the one-line errors."""

from __future__ import annotations

import json
from pathlib import Path

from tests.cli.conftest import Run


def test_stdout_is_the_path_of_what_fairseq_is_given(run: Run, tiny_s2t: Path) -> None:
    ended = run("export", "--to", "fairseq", "-o", "out.dequantized", stdin=f"{tiny_s2t}\n")
    assert (ended.returncode, ended.stdout) == (0, "out.dequantized/out.dequantized.pt\n")
    assert Path("out.dequantized.json").is_file() and Path(ended.stdout.strip()).is_file()
    assert "out.dequantized/config.yaml: " in ended.stderr and f" times {tiny_s2t} (" in ended.stderr


def test_json_is_the_sidecar(run: Run, tiny_s2t: Path) -> None:
    ended = run("export", tiny_s2t, "--to", "fairseq", "-o", "out", "--json")
    assert json.loads(ended.stdout) == json.loads(Path("out.json").read_text())


def test_errors_are_one_line_and_nothing_is_written(run: Run, tiny_s2t: Path, tiny_kws: Path) -> None:
    for arguments, said in (
        ((tiny_s2t,), "asrcompress: --to is missing: say onnx, fairseq or c\n"),
        ((tiny_s2t, "--to", "tflite"), "asrcompress: --to tflite: is not known; use one of onnx, fairseq, c\n"),
        ((tiny_kws, "--to", "fairseq", "-o", "out"), f"asrcompress: {tiny_kws}: is a kws_crnn, which Fairseq has no model for; use --to onnx\n"),
        (("absent.pt", "--to", "fairseq"), "asrcompress: absent.pt: no such file; give the path of a checkpoint\n"),
        ((tiny_s2t, "--to", "fairseq", "-o", "no/out"), "asrcompress: no/out: the folder no does not exist; create it first\n"),
        (
            (tiny_s2t, "--to", "fairseq", "-o", f"{tiny_s2t}/out"),
            f"asrcompress: {tiny_s2t}/out: {tiny_s2t} is a file, not a folder; choose another name\n",
        ),
        ((tiny_s2t, "--to", "fairseq", "-o", ""), "asrcompress: -o .: names no output; give it a name of its own\n"),
        ((tiny_s2t, "--to", "fairseq", "-o", "/", "--force"), "asrcompress: -o /: names no output; give it a name of its own\n"),
    ):  # fmt: skip
        ended = run("export", *arguments)
        assert (ended.returncode, ended.stdout, ended.stderr) == (2, "", said)
    assert list(Path().iterdir()) == []


def test_the_sidecar_of_an_export_is_no_model(run: Run, tiny_s2t: Path) -> None:
    run("export", tiny_s2t, "--to", "fairseq", "-o", "out")
    ended = run("export", "out.json", "--to", "onnx")
    assert ended.returncode == 2
    assert ended.stderr == "asrcompress: out.json: is the sidecar of an export; give the model that was exported\n"


def test_help_says_that_a_folder_is_written(run: Run) -> None:
    assert "Folder to write." in run("export", "--help").stdout
