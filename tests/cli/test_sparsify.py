"""`sparsify` from the command line: what is written and said, chains with quantize and eval, and lines for what cannot be."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from asrcompress.artifact import load_artifact
from tests.cli.conftest import Run


@pytest.fixture(scope="module")
def kws(samples_dir: Path) -> Path:
    return samples_dir / "kws" / "crnn_computer.pt"


def sizes(record: dict, *kinds: str) -> int:
    return sum(entry["size_bytes"] for entry in record["ledger"]["entries"] if entry["kind"] in kinds)


def test_a_pattern_is_written_counted_and_reported(run: Run, kws: Path, tmp_path: Path) -> None:
    written = run("sparsify", kws, "--pattern", "2:4", "-o", "k.safetensors")
    assert (written.returncode, written.stdout) == (0, "k.safetensors\n")
    assert "k.safetensors: 150." in written.stderr and "of the model's 281.77 kB" in written.stderr
    record = json.loads((tmp_path / "work" / "k.safetensors.json").read_text())
    weights = 69_600  # of the 70 443 parameters
    assert sizes(record, "weight_values") == weights * 4 // 2
    assert sizes(record, "weight_pattern") == pytest.approx(
        weights * 3 / 4 / 8, abs=8
    )  # a byte may be part full, for 8 weights
    analyzed = run("analyze", "k.safetensors")
    assert analyzed.returncode == 0, analyzed.stderr
    assert "8 sparse weights of float32, 2:4: 50.00% of 69,600 values kept" in analyzed.stderr
    assert f"{weights // 4:,} groups counted" in analyzed.stderr
    assert "2:4" in run("report", "k.safetensors.json").stdout


def test_json_and_dry_run_and_force(run: Run, tiny_kws: Path, tmp_path: Path) -> None:
    listed = run("sparsify", tiny_kws, "--sparsity", "0.5", "--exclude", "conv*", "--dry-run")
    assert "prune gru.weight_ih_l0" in listed.stdout and "keep conv.0.weight" in listed.stdout
    assert list((tmp_path / "work").iterdir()) == []
    options = ("sparsify", tiny_kws, "--sparsity", "0.5", "-o", "k.safetensors")
    result = run(*options, "--json")
    record = json.loads(result.stdout)
    assert record == json.loads((tmp_path / "work" / "k.safetensors.json").read_text())
    assert (record["recipe"]["sparsity"], record["recipe"]["sparsifier"]) == (0.5, "magnitude")
    first = (tmp_path / "work" / "k.safetensors").read_bytes()
    assert run(*options).returncode == 2
    assert run(*options, "--force").returncode == 0
    assert (tmp_path / "work" / "k.safetensors").read_bytes() == first


def test_entropy_coding_is_lossless_and_said(run: Run, kws: Path, tmp_path: Path) -> None:
    run("quantize", kws, "--bits", "8", "-o", "q.safetensors")
    assert run("sparsify", "q.safetensors", "--pattern", "2:4", "-o", "plain.safetensors").returncode == 0
    coded = run("sparsify", "q.safetensors", "--pattern", "2:4", "-o", "coded.safetensors", "--entropy-coding", "zstd")
    assert "entropy coding: " in coded.stderr
    plain, small = (load_artifact(tmp_path / "work" / f"{name}.safetensors") for name in ("plain", "coded"))
    for name, weight in plain.quantized.items():
        assert weight.codes.tolist() == small.quantized[name].codes.tolist()
    files = [(tmp_path / "work" / f"{name}.safetensors").stat().st_size for name in ("coded", "plain")]
    record = json.loads((tmp_path / "work" / "coded.safetensors.json").read_text())
    assert (
        record["metrics"]["size_bytes"] == files[0] < record["metrics"]["size_bytes_without_entropy_coding"] == files[1]
    )


def error_of(run: Run, model: str, data: tuple, metric: str) -> object:
    evaluated = run("eval", model, "--data", *data, "--resamples", "100", "--force", "--json")
    assert evaluated.returncode == 0, evaluated.stderr
    return json.loads(evaluated.stdout)["metrics"][metric]


def require_equal_chains(run: Run, folder: Path, model: Path, data: tuple, metric: str, options: tuple = ()) -> None:
    """sparsify, then quantize, is quantize with a pattern: in its codes, masks and bytes of weights, and in what eval says."""
    assert run("sparsify", model, "--pattern", "2:4", *options, "-o", "s.safetensors").returncode == 0
    chained = run("quantize", "s.safetensors", "--bits", "4", "-o", "chain.safetensors")
    assert chained.returncode == 0, chained.stderr
    assert run("quantize", model, "--bits", "4", "--pattern", "2:4", *options, "-o", "once.safetensors").returncode == 0
    chain, once = (load_artifact(folder / f"{name}.safetensors") for name in ("chain", "once"))
    assert chain.quantized.keys() == once.quantized.keys()
    for name, weight in chain.quantized.items():
        other = once.quantized[name]
        assert weight.pattern == other.pattern == (2, 4)
        assert weight.codes.equal(other.codes) and weight.scale.equal(other.scale)
    records = [json.loads((folder / f"{name}.safetensors.json").read_text()) for name in ("chain", "once")]
    counted = [{row["name"]: row["kept_per_group"] for row in record["honesty"]["codes"]} for record in records]
    assert counted[0] == counted[1]
    kinds = ("weight_packed", "weight_pattern", "weight_scale")
    assert sizes(records[0], *kinds) == sizes(records[1], *kinds)
    assert error_of(run, "chain.safetensors", data, metric) == error_of(run, "once.safetensors", data, metric)
    # The other way round: codes are pruned on the grid that they have.
    assert run("quantize", model, "--bits", "4", "-o", "q.safetensors").returncode == 0
    assert run("sparsify", "q.safetensors", "--pattern", "2:4", *options, "-o", "qs.safetensors").returncode == 0
    record = json.loads((folder / "qs.safetensors.json").read_text())
    assert record["honesty"]["violations"] == []
    assert sizes(record, *kinds) == sizes(records[0], *kinds)
    assert error_of(run, "qs.safetensors", data, metric) is not None


def test_both_orders_on_the_keyword_sample(run: Run, samples_dir: Path, kws: Path, tmp_path: Path) -> None:
    data = (samples_dir / "kws" / "manifest.tsv", "--split", "test", "--keyword", "computer")
    require_equal_chains(run, tmp_path / "work", kws, data, "au_fa_fr")


def test_both_orders_on_the_transcribing_sample(run: Run, samples_dir: Path, tmp_path: Path) -> None:
    table = (samples_dir / "asr" / "dev.tsv").read_text().splitlines()
    folder = tmp_path / "speech"
    shutil.copytree(samples_dir / "asr" / "audio", folder / "audio")
    (folder / "few.tsv").write_text("\n".join(table[:5]) + "\n")
    data = (folder / "few.tsv", "--beam", "1", "--max-len-b", "20")
    require_equal_chains(run, tmp_path / "work", samples_dir / "asr" / "checkpoint_best.pt", data, "wer")


def test_both_orders_on_keywords_spoken_by_people(run: Run, kws_dir: Path, tmp_path: Path) -> None:
    head, *rows = (kws_dir / "manifest.tsv").read_text().splitlines()
    clips = [row for row in rows if row.endswith("\tval")]
    few = [row for word in (True, False) for row in [clip for clip in clips if ("\thappy\t" in clip) == word][:20]]
    (tmp_path / "few.tsv").write_text("\n".join([head, *few]) + "\n")
    data = (tmp_path / "few.tsv", "--audio-root", kws_dir, "--keyword", "happy")
    require_equal_chains(run, tmp_path / "work", kws_dir / "crnn_happy.pt", data, "au_fa_fr")


def test_both_orders_on_digits_spoken_by_people(run: Run, digits_dir: Path, tmp_path: Path) -> None:
    rows = (digits_dir / "dev.tsv").read_text().splitlines()
    (tmp_path / "few.tsv").write_text("\n".join(rows[:7]) + "\n")
    data = (tmp_path / "few.tsv", "--audio-root", digits_dir, "--beam", "1")
    require_equal_chains(run, tmp_path / "work", digits_dir / "checkpoint_best.pt", data, "wer")


def test_a_pipe(run: Run, tiny_kws: Path) -> None:
    path = run("sparsify", tiny_kws, "--pattern", "2:4", "-o", "s.safetensors").stdout
    assert run("quantize", "--bits", "4", "-o", "q.safetensors", stdin=path).stdout == "q.safetensors\n"


def test_a_recipe(run: Run, tiny_kws: Path, tmp_path: Path) -> None:
    (tmp_path / "work" / "r.toml").write_text(
        'pattern = "1:4"\n[[rules]]\nmodules = "conv"\npattern = "none"\n[[rules]]\nmodules = "gru"\nsparsity = 0.5\n'
    )
    assert run("sparsify", tiny_kws, "--config", "r.toml", "-o", "a.safetensors").returncode == 0
    content = load_artifact(tmp_path / "work" / "a.safetensors")
    assert content.sparse["gru.weight_ih_l0"].pattern is None
    assert content.sparse["classifier.weight"].pattern == (1, 4)
    assert "conv.0.weight" in content.floats


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ((), "nothing says what to drop; add --pattern 2:4"),
        (("--pattern", "2:4", "--sparsity", "0.5"), "pattern 2:4 and sparsity 0.5: give one of them"),
        (("--pattern", "4:2"), "pattern '4:2': use keep_n:group_m such as 2:4, two values kept of every four"),
        (("--sparsity", "50"), "sparsity 50.0: use the fraction of weights to drop, such as 0.5"),
        (("--pattern", "5:16"), "conv.0.weight: 100 inputs do not divide into groups of 16 for 5:16; use a pattern whose groups"),
        (("--pattern", "2:4", "--method", "wanda"), "--method wanda needs speech to calibrate with; add --calibrate DATA"),
        (("--pattern", "2:4", "--method", "best"), "sparsifier 'best' is not known; use one of magnitude, sparsegpt, wanda"),
        (("--pattern", "2:4", "--include", "lstm*"), "--include 'lstm*' fits no weight"),
        (("--pattern", "2:4", "--config", "none.toml"), "none.toml: the recipe could not be read"),
    ],
)  # fmt: skip
def test_what_cannot_be_is_one_line(run: Run, tiny_kws: Path, tmp_path: Path, options: tuple, message: str) -> None:
    failed = run("sparsify", tiny_kws, *options, "-o", "k.safetensors")
    assert failed.returncode == 2
    assert message in failed.stderr and len(failed.stderr.strip().splitlines()) == 1
    assert list((tmp_path / "work").iterdir()) == []


def test_quantize_has_a_fraction_of_zeros_too(run: Run, kws: Path, tmp_path: Path) -> None:
    dense = json.loads(run("quantize", kws, "--bits", "4", "-o", "d.safetensors", "--json").stdout)
    sparse = json.loads(
        run("quantize", kws, "--bits", "4", "--sparsity", "0.6", "-o", "s.safetensors", "--json").stdout
    )
    assert sparse["model"]["compression"]["patterns"] == ["unstructured"]
    assert sparse["honesty"]["violations"] == []
    codes = sizes(sparse, "weight_packed", "weight_bitmask")
    assert codes <= 0.7 * sizes(
        dense, "weight_packed"
    )  # at most 1 + 0.4 x 4 bits for 4; codes that round to 0 are not stored
    for weight in load_artifact(tmp_path / "work" / "s.safetensors").quantized.values():
        assert int((weight.codes == 0).sum()) >= round(0.6 * weight.codes.numel())


def test_a_checkpoint_away_from_its_folder_is_told_where_that_is(run: Run, samples_dir: Path, tmp_path: Path) -> None:
    home = samples_dir / "asr"
    alone = shutil.copy(home / "checkpoint_best.pt", tmp_path / "alone.pt")
    without = run("sparsify", alone, "--pattern", "2:4", "-o", "a.safetensors")
    assert without.returncode == 2 and "--data-dir" in without.stderr
    done = run("sparsify", alone, "--pattern", "2:4", "--data-dir", home, "-o", "a.safetensors")
    assert done.returncode == 0, done.stderr
    assert run("sparsify", alone, "--pattern", "2:4", "--data-dir", home, "--dry-run").returncode == 0
