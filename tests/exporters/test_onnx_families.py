"""export --to onnx of every family that has graphs: logits against the model's own, and keyword models on running audio."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import jsonschema
import numpy as np
import onnx
import onnxruntime
import pytest
import torch

from asrcompress.errors import AsrCompressError
from asrcompress.exporters import onnx as exporter
from asrcompress.exporters.graphs import kws
from asrcompress.models import FAMILIES
from asrcompress.models.crnn import CRNN
from asrcompress.models.crnn_stream import AtOnce
from asrcompress.ops.export import WrittenExport, export
from asrcompress.ops.load import load_model
from asrcompress.ops.quantize import Calibrate, QuantizeConfig, quantize
from tests.conftest import ROOT
from tests.fixtures.conformer import make_s2t_conformer

TINY = {
    "asr_vggtransformer": "tiny_vgg",
    "asr_vggtransformer_encoder": "tiny_vgg_encoder",
    "wav2vec_ctc": "tiny_wav2vec_ctc",
    "hubert_ctc": "tiny_hubert_ctc",
}
KINDS = {
    "float": None,
    "int8": QuantizeConfig(num_bits=8),
    "int4": QuantizeConfig(num_bits=4),
    "integers": QuantizeConfig(num_bits=4, activations="int8"),
}


def exported(
    checkpoint: Path, folder: Path, config: QuantizeConfig | None, calibrate: Calibrate | None = None
) -> WrittenExport:
    if config is None:
        return export(checkpoint, "onnx", output=folder / "out-onnx")
    artifact = folder / "model.safetensors"
    quantize(checkpoint, artifact, config, calibrate=calibrate)
    return export(artifact, "onnx")


def test_every_family_has_graphs() -> None:
    assert set(exporter.MAPS) == set(FAMILIES)


@pytest.mark.parametrize("kind", ["int4", "integers"])
@pytest.mark.parametrize("family", list(TINY))
def test_logits_are_the_models(family: str, kind: str, request: pytest.FixtureRequest, tmp_path: Path) -> None:
    """To float rounding; with integer activations a code may be another one, and what comes after it."""
    record = exported(request.getfixturevalue(TINY[family]), tmp_path, KINDS[kind]).record
    check = record["export"]["check"]
    assert record["model"]["family"] == family and check["num_logits"] > 100
    assert check["max_logit_difference"] < (0.03 if kind == "integers" else 2e-6) * check["max_logit"]
    products = set(record["export"]["products"])
    assert products == ({"MatMulInteger"} if kind == "integers" else {"MatMulNBits", "MatMul", "Conv"})


class Keyword:
    """An exported keyword model and its artifact."""

    def __init__(
        self, checkpoint: Path, folder: Path, config: QuantizeConfig | None, calibrate: Calibrate | None = None
    ) -> None:
        self.written = exported(checkpoint, folder, config, calibrate)
        loaded = load_model(checkpoint if config is None else folder / "model.safetensors")
        self.module: Any = loaded.module
        self.whole, self.stream = (
            onnxruntime.InferenceSession(self.written.folder / name, providers=["CPUExecutionProvider"])
            for name in ("keyword.onnx", "keyword_stream.onnx")
        )

    def steps(self, log_mel: torch.Tensor) -> np.ndarray:
        """Logits of every step, (batch, steps, classes)."""
        kernel, stride = self.module.sizes["kernel_size"][1], self.module.sizes["stride"][1]
        state, logits = kws.first_state(self.module, log_mel[:, :, : kernel - stride].numpy()), []
        names = [value.name for value in self.stream.get_outputs()]
        for start in range(kernel - stride, log_mel.shape[2] - stride + 1, stride):
            feeds = {"log_mel": log_mel[:, :, start : start + stride].numpy(), **state}
            outputs = dict(zip(names, self.stream.run(names, feeds), strict=True))
            state = kws.next_state(outputs)
            logits.append(outputs["logits"])
        return np.stack(logits, axis=1)


@pytest.fixture(scope="session")
def keyword_checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(4)
    path = tmp_path_factory.mktemp("kws") / "crnn.pt"
    torch.save(CRNN(num_channels=4, hidden_size=12).state_dict(), path)
    return path


def frames(batch: int, count: int) -> torch.Tensor:
    return torch.randn(batch, 40, count, generator=torch.Generator().manual_seed(1)) * 4 - 6


@pytest.mark.parametrize("kind", list(KINDS))
def test_keyword_clips_and_streams_are_the_models(kind: str, keyword_checkpoint: Path, tmp_path: Path) -> None:
    model = Keyword(keyword_checkpoint, tmp_path, KINDS[kind])
    clips = frames(3, 101)
    with torch.inference_mode():
        expected = model.module(clips).numpy()
    np.testing.assert_allclose(model.whole.run(None, {"log_mel": clips.numpy()})[0], expected, atol=1e-5)
    running = frames(2, 20 + 8 * 16)  # longer than the window, which has 11 steps
    with torch.inference_mode():
        expected = np.stack([model.module(one[None], AtOnce(11)).numpy() for one in running])
    np.testing.assert_allclose(model.steps(running), expected, atol=1e-5)


def test_a_keyword_model_on_static_grids_is_quantized_and_dequantized_at_each(
    samples_dir: Path, tmp_path: Path
) -> None:
    folder = samples_dir / "kws"
    config = QuantizeConfig(num_bits=4, activations="int8", level="integer-only", calibration_limit=8)
    model = Keyword(folder / "crnn_computer.pt", tmp_path, config, Calibrate(folder / "manifest.tsv"))
    check = model.written.record["export"]["check"]
    assert check["max_logit_difference"] < 0.03 * check["max_logit"] and check["same_best_share"] == 1
    ops = [node.op_type for node in onnx.load(model.written.folder / "keyword.onnx").graph.node]
    assert ops.count("QuantizeLinear") >= 12 and "MatMulInteger" not in ops


CONFORMERS = {
    "relative": {"attn_type": "espnet", "pos_enc_type": "rel_pos"},
    "rotary": {"attn_type": "espnet", "pos_enc_type": "rope"},
    "absolute": {"attn_type": "espnet", "pos_enc_type": "abs"},
    "fairseq": {"pos_enc_type": "abs"},
    "2d": {"attn_type": "espnet", "pos_enc_type": "rope", "conv_version": "convtransformer", "conv_out_channels": 4},
}


@pytest.mark.parametrize("positions", list(CONFORMERS))
def test_conformers_with_every_kind_of_positions(positions: str, tmp_path: Path) -> None:
    checkpoint = make_s2t_conformer(tmp_path, **CONFORMERS[positions])
    for kind in ("int8", "integers") if positions == "relative" else ("integers",):
        (tmp_path / kind).mkdir()
        check = exported(checkpoint, tmp_path / kind, KINDS[kind]).record["export"]["check"]
        assert check["max_logit_difference"] < (0.03 if kind == "integers" else 1e-5) * check["max_logit"]


def test_a_family_without_graphs_is_one_line(
    keyword_checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delitem(exporter.MAPS, "kws_crnn")
    with pytest.raises(
        AsrCompressError, match=r"crnn.pt: is a kws_crnn, which has no ONNX graphs yet; these have: s2t_transformer, "
    ):
        export(keyword_checkpoint, "onnx", output=tmp_path / "out-onnx")
    assert not list(tmp_path.iterdir())


def test_without_the_package_export_says_how_to_get_it(
    keyword_checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "onnx", None)
    with pytest.raises(AsrCompressError, match=r"needs the package onnx .*pip install 'onnx>=1.17,<2' 'onnxruntime"):
        export(keyword_checkpoint, "onnx", output=tmp_path / "out-onnx")


def test_without_a_runtime_nothing_is_claimed(
    keyword_checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    written = export(keyword_checkpoint, "onnx", output=tmp_path / "out-onnx")
    assert written.record["export"]["check"] is None and "not checked" in written.notes[0]
    assert written.record["metrics"]["onnx_max_logit_difference"] is None


def test_large_constants_lie_beside_the_graph(
    keyword_checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(exporter, "INLINE_BYTES", 1000)
    written = export(keyword_checkpoint, "onnx", output=tmp_path / "out-onnx")
    files = {file["file"]: file["size_bytes"] for file in written.record["export"]["files"]}
    assert files["keyword.onnx.data"] > files["keyword.onnx"] and "keyword_stream.onnx.data" in files
    assert written.record["metrics"]["onnx_max_logit_difference"] < 1e-5


def test_the_sidecar_keeps_to_the_schema(keyword_checkpoint: Path, tmp_path: Path) -> None:
    written = export(keyword_checkpoint, "onnx", output=tmp_path / "out-onnx")
    schema = json.loads((ROOT / "docs" / "sidecar.schema.json").read_text())
    jsonschema.validate(json.loads(written.sidecar.read_text()), schema)


def test_float_modules_among_integers_are_one_line(samples_dir: Path, tmp_path: Path) -> None:
    folder, artifact = samples_dir / "kws", tmp_path / "model.safetensors"
    config = QuantizeConfig(
        num_bits=4, activations="int8", level="integer-only", calibration_limit=4, exclude=("classifier.weight",)
    )
    quantize(folder / "crnn_computer.pt", artifact, config, calibrate=Calibrate(folder / "manifest.tsv"))
    with pytest.raises(
        AsrCompressError, match="model.safetensors: classifier:in: has no static grid.*use --level computed"
    ):
        export(artifact, "onnx")
    assert not (tmp_path / "model-onnx").exists()


def test_the_same_model_gives_the_same_bytes(keyword_checkpoint: Path, tmp_path: Path) -> None:
    one, other = (export(keyword_checkpoint, "onnx", output=tmp_path / name) for name in ("a", "b"))
    assert [file["sha256"] for file in one.record["export"]["files"]] == [
        file["sha256"] for file in other.record["export"]["files"]
    ]
