"""export --to onnx of speech-to-text transformers: ONNX Runtime gives the artifact's logits, from the artifact's own codes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import torch

from asrcompress.exporters.graphs import decoding
from asrcompress.models import padding, s2t
from asrcompress.ops.export import export
from asrcompress.ops.load import load_model
from asrcompress.ops.quantize import QuantizeConfig, quantize
from asrcompress.speech.audio import read_audio


class Exported:
    """An artifact, the graphs that it was exported to, and how to run both."""

    def __init__(self, artifact: Path) -> None:
        written = export(artifact, "onnx", force=True)
        self.folder, self.record = written.folder, written.record
        loaded = load_model(artifact)
        self.spec, self.module = loaded.source.spec, loaded.module
        self.sessions = {
            name: onnxruntime.InferenceSession(self.folder / f"{name}.onnx", providers=["CPUExecutionProvider"])
            for name in ("encoder", "decoder")
        }

    def run(self, name: str, feeds: dict[str, Any]) -> dict[str, Any]:
        session = self.sessions[name]
        wanted = {value.name for value in session.get_inputs()}
        found = session.run(None, {key: value for key, value in feeds.items() if key in wanted})
        return dict(zip([value.name for value in session.get_outputs()], found, strict=True))

    def encoder(self, source: torch.Tensor, lengths: torch.Tensor) -> tuple[np.ndarray, dict[str, Any]]:
        with torch.inference_mode(), padding.hidden(s2t._readers(self.module, lengths)):
            expected = self.module.encoder(source, lengths)["encoder_out"][0].transpose(0, 1).numpy()
        return expected, self.run("encoder", {"features": source.numpy(), "lengths": lengths.numpy()})

    def logits(self, source: torch.Tensor, lengths: torch.Tensor, tokens: torch.Tensor) -> np.ndarray:
        with torch.inference_mode(), padding.hidden(s2t._readers(self.module, lengths)):
            return self.module(source, lengths, tokens)[0].numpy()

    def decoder(self, encoded: dict[str, Any], pieces: list[torch.Tensor]) -> np.ndarray:
        state, found = decoding.empty_caches(self.module, pieces[0].shape[0]), []
        for tokens in pieces:
            outputs = self.run("decoder", {"tokens": tokens.numpy(), **encoded, **state})
            found.append(outputs.pop("logits"))
            state = {name.replace("new_", "past_"): value for name, value in outputs.items()}
        return np.concatenate(found, axis=1)


def sample_batch(folder: Path, model: Exported, count: int) -> tuple[torch.Tensor, torch.Tensor]:
    rows = [line.split("\t") for line in (folder / "test.tsv").read_text().splitlines()[1 : count + 1]]
    audio = [read_audio(folder / row[1], sample_rate_hz=16_000) for row in rows]
    return s2t.pad([s2t.features(model.spec, samples) for samples in audio], model.module)


@pytest.fixture(scope="module")
def int8(samples_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Exported:
    artifact = tmp_path_factory.mktemp("onnx") / "asr.safetensors"
    quantize(samples_dir / "asr" / "checkpoint_best.pt", artifact, QuantizeConfig(num_bits=8, activations="int8"))
    return Exported(artifact)


def test_speech_gives_the_logits_of_the_artifact(int8: Exported, samples_dir: Path) -> None:
    """Sums of integers are exact on both sides; sigmoids and norms differ by their last bit, and rounding passes that on."""
    source, lengths = sample_batch(samples_dir / "asr", int8, 4)
    assert len(set(lengths.tolist())) > 1
    expected, encoded = int8.encoder(source, lengths)
    seen = np.arange(expected.shape[1]) < encoded["encoder_lengths"][:, None]
    difference = np.abs(encoded["encoder_out"] - expected)[seen]
    assert difference.mean() < 0.005 * np.abs(expected).mean() and difference.max() < 0.05 * np.abs(expected).max()
    tokens = torch.randint(4, 64, (4, 6), generator=torch.Generator().manual_seed(0))
    logits = int8.logits(source, lengths, tokens)
    at_once = int8.decoder(encoded, [tokens])
    assert np.abs(at_once - logits).max() < 0.2 and np.array_equal(at_once.argmax(-1), logits.argmax(-1))
    in_steps = int8.decoder(encoded, [tokens[:, :3], *tokens[:, 3:].split(1, dim=1)])
    np.testing.assert_allclose(in_steps, at_once, atol=0.05)


def test_an_utterance_has_the_same_values_alone_and_beside_a_longer_one(int8: Exported, samples_dir: Path) -> None:
    source, lengths = sample_batch(samples_dir / "asr", int8, 3)
    _, together = int8.encoder(source, lengths)
    row = int(lengths.argmin())
    _, alone = int8.encoder(source[row : row + 1, : int(lengths[row])], lengths[row : row + 1])
    frames = alone["encoder_out"].shape[1]
    assert together["encoder_lengths"][row] == alone["encoder_lengths"][0] == frames
    np.testing.assert_allclose(together["encoder_out"][row, :frames], alone["encoder_out"][0], atol=1e-5)


def test_the_files_hold_the_codes_and_no_float_copy_of_them(int8: Exported) -> None:
    size = int8.record["model"]["size_bytes"]
    assert int8.record["metrics"]["onnx_size_bytes"] < 1.2 * size
    stored: dict[int, int] = {}
    for name in ("encoder", "decoder"):
        model = onnx.load(int8.folder / f"{name}.onnx")
        onnx.checker.check_model(model, full_check=True)
        for tensor in model.graph.initializer:
            stored[tensor.data_type] = stored.get(tensor.data_type, 0) + int(np.prod(tensor.dims))
        assert not [node for node in model.graph.node if node.op_type in ("MatMul", "Conv", "Gemm")]
    weights = {
        id(module.packed): module.packed.codes.numel() for module in int8.module.modules() if hasattr(module, "packed")
    }
    unused = int8.module.encoder.ctc_proj.packed.codes.numel()
    assert stored[onnx.TensorProto.INT8] == sum(weights.values()) - unused + 2  # and a zero point in each graph
    assert stored.get(onnx.TensorProto.FLOAT, 0) + stored.get(onnx.TensorProto.FLOAT16, 0) < 0.06 * sum(
        weights.values()
    )


def test_the_sidecar_says_what_is_in_the_files_and_how_far_they_are_off(int8: Exported) -> None:
    block = int8.record["export"]
    assert block["graphs"]["encoder.onnx"]["inputs"] == {
        "features": "float [batch, frames, 80]",
        "lengths": "int64 [batch]",
    }
    assert block["products"].keys() == {"MatMulInteger"} and block["opset"] == 21
    assert block["check"]["max_logit_difference"] == int8.record["metrics"]["onnx_max_logit_difference"] < 0.2
    assert block["check"]["same_best_share"] == 1
