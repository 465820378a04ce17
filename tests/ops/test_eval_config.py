"""Options of eval: what is out of range or of another task is refused, and what was resolved is recorded."""

from __future__ import annotations

import math
from pathlib import Path

import pytest

from asrcompress.errors import AsrCompressError
from asrcompress.ops.eval_config import EvalConfig, task_options
from asrcompress.ops.evaluate import evaluate

ASR = {"beam": 5, "lenpen": 1.0, "max_len_a": 0.0, "max_len_b": 200, "normalizer": "basic"}
KEYWORD = {"keyword": "go", "split": "test", "threshold": 0.5}


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("beam", 0), ("lenpen", math.nan), ("lenpen", math.inf), ("lenpen", -1e9), ("max_len_a", math.nan),
        ("max_len_a", math.inf), ("max_len_a", 1e300), ("max_len_a", -0.1), ("max_len_b", 0), ("max_len_b", -1),
        ("batch_size", 0), ("threshold", math.nan), ("threshold", 1.1), ("limit", 0), ("seed", -1), ("seed", 2**63),
        ("num_resamples", 99), ("confidence", math.nan), ("confidence", 1.0),
    ],
)  # fmt: skip
def test_out_of_range(name: str, value: float) -> None:
    option = {"num_resamples": "resamples"}.get(name, name.replace("_", "-"))
    with pytest.raises(AsrCompressError, match=f"--{option} .*out of range; use "):
        EvalConfig(Path("x"), **{name: value})


@pytest.mark.parametrize(
    "device", ["meta", "mps", "cuda:", "cuda:-1", "cuda:x", "CPU", "cpu:0", "", "cuda:99999999999"]
)
def test_no_such_kind_of_device(device: str) -> None:
    with pytest.raises(AsrCompressError, match="use cpu, cuda or cuda:N"):
        EvalConfig(Path("x"), device=device)


def test_defaults_are_filled_in_and_given_values_kept() -> None:
    assert task_options(EvalConfig(Path("x")), "asr", "m") == ASR
    assert task_options(EvalConfig(Path("x"), keyword="go", split="test"), "keyword", "m") == KEYWORD
    zeros = EvalConfig(Path("x"), lenpen=0.0, threshold=None, beam=1)
    assert task_options(zeros, "asr", "m") == ASR | {"lenpen": 0.0, "beam": 1}


@pytest.mark.parametrize(("name", "value"), [*ASR.items(), *KEYWORD.items()])
def test_an_option_of_the_other_task_is_refused_even_with_its_default(
    tiny_s2t: Path, tiny_kws: Path, tiny_speech: Path, tmp_path: Path, name: str, value: object
) -> None:
    model = tiny_kws if name in ASR else tiny_s2t
    with pytest.raises(AsrCompressError, match=f"--{name.replace('_', '-')} {value}: is for .* leave it out"):
        evaluate(model, EvalConfig(tiny_speech, **{name: value}), output=tmp_path / "e.json")
    assert list(tmp_path.iterdir()) == []


def test_what_was_resolved_is_recorded(tiny_kws: Path, tiny_speech: Path, tmp_path: Path) -> None:
    rows = "".join(f"{tiny_speech.parent / f'{number}.flac'}\t{word}\n" for number, word in enumerate("ababa"))
    (tmp_path / "clips.tsv").write_text("path\tword\n" + rows)
    config = EvalConfig(tmp_path / "clips.tsv", keyword="a", num_resamples=100)
    _, record = evaluate(tiny_kws, config, output=tmp_path / "e.json")
    assert record["decoding"] == {"method": "threshold", "keyword": "a", "threshold": 0.5}
