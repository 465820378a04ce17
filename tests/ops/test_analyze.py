"""analyze: sums, ties, true MACs, the published convention, and the share of MACs on integers."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from asrcompress.errors import AsrCompressError
from asrcompress.models.crnn import CRNN
from asrcompress.ops.analyze import AnalyzeConfig, analyze
from asrcompress.ops.quantize import QuantizeConfig, quantize


def test_a_checkpoints_bytes_and_parameters_sum_up(tiny_s2t: Path, tmp_path: Path) -> None:
    _, record = analyze(tiny_s2t, AnalyzeConfig(duration_s=1.0, num_tokens=5), output=tmp_path / "a.json")
    assert sum(entry["size_bytes"] for entry in record["ledger"]["entries"]) == tiny_s2t.stat().st_size
    assert sum(row["num_params"] for row in record["layers"]) == record["metrics"]["num_params"]
    assert sum(row["size_bytes"] for row in record["layers"]) == 4 * record["metrics"]["num_params"]
    assert sum(row["macs"] for row in record["layers"]) == record["metrics"]["macs"]
    for key in ("num_params", "size_bytes", "macs"):
        assert sum(total[key] for total in record["totals"]) == sum(row[key] for row in record["layers"])
    assert record["metrics"]["optimizer_size_bytes"] >= 2 * 4 * record["metrics"]["num_params"]
    rows = {row["name"]: row for row in record["layers"]}
    assert rows["decoder.output_projection"]["tied_to"] == "decoder.embed_tokens.weight"
    assert (
        rows["decoder.output_projection"]["num_params"] == 0
        and rows["decoder.output_projection"]["macs"] == 5 * 32 * 10
    )
    assert record["input"] == {"duration_s": 1.0, "num_frames": 98, "num_tokens": 5, "batch_size": 1}


def test_an_artifact_costs_the_same_macs_all_on_integers(tiny_s2t: Path, tmp_path: Path) -> None:
    config = AnalyzeConfig(duration_s=1.0, num_tokens=5)
    _, before = analyze(tiny_s2t, config, output=tmp_path / "a.json")
    quantize(tiny_s2t, tmp_path / "q.safetensors", QuantizeConfig(num_bits=4, activations="int8"))
    _, after = analyze(tmp_path / "q.safetensors", config, output=tmp_path / "b.json")
    assert after["metrics"]["macs"] == before["metrics"]["macs"]
    assert after["level"]["integer_macs_share"] == 1.0 and after["level"]["float_modules"] == []
    assert (
        sum(entry["size_bytes"] for entry in after["ledger"]["entries"]) == (tmp_path / "q.safetensors").stat().st_size
    )
    quantize(tiny_s2t, tmp_path / "w.safetensors", QuantizeConfig(num_bits=4))
    _, weights_only = analyze(tmp_path / "w.safetensors", config, output=tmp_path / "c.json")
    assert weights_only["level"]["claimed"] == "stored" and weights_only["level"]["integer_macs_share"] == 0.0


def test_an_excluded_module_is_named_as_float(tiny_s2t: Path, tmp_path: Path) -> None:
    quantize(
        tiny_s2t,
        tmp_path / "q.safetensors",
        QuantizeConfig(activations="int8", exclude=("encoder.transformer_layers.0.fc1.weight",)),
    )
    _, record = analyze(tmp_path / "q.safetensors", AnalyzeConfig(duration_s=1.0), output=tmp_path / "a.json")
    assert record["level"]["claimed"] == "partial"
    assert record["level"]["float_modules"] == ["encoder.transformer_layers.0.fc1"]
    assert 0 < record["level"]["integer_macs_share"] < 1


@pytest.mark.parametrize(
    ("channels", "hidden", "params", "macs"),
    [(8, 64, 70_443, 119_527_424), (4, 32, 18_071, 35_613_696), (4, 16, 6_679, 19_321_856), (2, 12, 3_133, 9_431_040)],
)
def test_the_reports_table(tmp_path: Path, channels: int, hidden: int, params: int, macs: int) -> None:
    """The keyword report's table, from files on disk, batch 128 of 101 frames, in the convention of its day."""
    torch.save(CRNN(channels, hidden).state_dict(), tmp_path / "m.pt")
    config = AnalyzeConfig(batch_size=128, macs_convention="thop-conv-bias")
    _, record = analyze(tmp_path / "m.pt", config, output=tmp_path / "a.json")
    assert record["metrics"]["num_params"] == params
    assert record["metrics"]["macs"] == macs and record["input"]["num_frames"] == 101


def test_keyword_artifact_is_integer_throughout(tiny_kws: Path, tmp_path: Path) -> None:
    quantize(tiny_kws, tmp_path / "k.safetensors", QuantizeConfig(activations="int8"))
    _, record = analyze(tmp_path / "k.safetensors", AnalyzeConfig(), output=tmp_path / "a.json")
    assert record["level"]["integer_macs_share"] == 1.0


def test_digits_macs_at_400_frames_and_12_tokens(digits_dir: Path, tmp_path: Path) -> None:
    """229.6 M by hand (attention products included): 400 frames are 4.015 s."""
    config = AnalyzeConfig(duration_s=4.015, num_tokens=12)
    _, record = analyze(digits_dir / "checkpoint_best.pt", config, output=tmp_path / "a.json")
    assert record["input"]["num_frames"] == 400
    assert round(record["metrics"]["macs"] / 1e6, 1) == 229.6
    assert round(record["metrics"]["thop_macs"] / 1e6, 1) == 159.2


def test_the_model_is_never_overwritten(tiny_kws: Path, tmp_path: Path) -> None:
    model = tmp_path / "m.pt"
    model.write_bytes(tiny_kws.read_bytes())
    with pytest.raises(AsrCompressError, match="is an input"):
        analyze(model, AnalyzeConfig(), output=model, force=True)
    assert model.read_bytes() == tiny_kws.read_bytes()


@pytest.mark.parametrize(
    "options", [{"batch_size": 0}, {"batch_size": 10**23}, {"num_tokens": 0}, {"num_tokens": 10**9}]
)
def test_counts_out_of_range(options: dict) -> None:
    with pytest.raises(AsrCompressError, match="is out of range; use 1 to 1000000"):
        AnalyzeConfig(**options)


def test_tokens_are_refused_where_there_is_no_decoder(tiny_kws: Path, tmp_path: Path) -> None:
    with pytest.raises(AsrCompressError, match="--tokens 5: .*leave it out"):
        analyze(tiny_kws, AnalyzeConfig(num_tokens=5), output=tmp_path / "a.json")


def test_an_input_too_large_for_memory_is_one_line(tiny_s2t: Path, tmp_path: Path) -> None:
    """3600 s * 100 frames * 80 bins * 4 bytes * 10**6 = 115 TB: torch refuses it, or it is more than the machine has."""
    with pytest.raises(AsrCompressError, match=r"a batch of 1000000, 3600 s \(.*; lower --batch-size") as caught:
        analyze(tiny_s2t, AnalyzeConfig(duration_s=3600, batch_size=10**6), output=tmp_path / "a.json")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("error", [RuntimeError("too big\nstack"), IndexError("index out of range"), MemoryError()])
def test_a_run_that_fails_is_one_line(
    tiny_kws: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    def fail(*args):
        raise error

    monkeypatch.setattr(CRNN, "forward", fail)
    with pytest.raises(
        AsrCompressError, match=r"does not run on a batch of 1, 1 s \((too big|index|MemoryE)"
    ) as caught:
        analyze(tiny_kws, AnalyzeConfig(), output=tmp_path / "a.json")
    assert "\n" not in str(caught.value) and not (tmp_path / "a.json").exists()
