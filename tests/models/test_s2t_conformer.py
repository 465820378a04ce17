"""s2t_conformer against Fairseq itself, for each of its kinds of attention and positions."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import soundfile
import torch

from asrcompress.errors import AsrCompressError
from asrcompress.models import ModelSpec, s2t_conformer
from asrcompress.models.s2t_arguments import check_arguments
from asrcompress.ops.analyze import AnalyzeConfig, analyze
from asrcompress.ops.load import load_model
from asrcompress.ops.quantize import Calibrate, quantize
from asrcompress.ops.recipe import QuantizeConfig
from tests.fixtures.fairseq_files import PIECES, argmax_tokens, changed, load_with_fairseq

KINDS = ["tiny_s2t_conformer", "tiny_s2t_conformer_rope", "tiny_s2t_conformer_abs", "tiny_s2t_conformer_fairseq"]
ENCODER_ATTENTION = {
    "tiny_s2t_conformer": "RelPositionMultiHeadedAttention",
    "tiny_s2t_conformer_rope": "RotaryPositionMultiHeadedAttention",
    "tiny_s2t_conformer_abs": "ESPNETMultiHeadedAttention",
    "tiny_s2t_conformer_fairseq": "MultiheadAttention",
}


@pytest.fixture(params=KINDS)
def kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def checkpoint(kind: str, request: pytest.FixtureRequest) -> Path:
    path: Path = request.getfixturevalue(kind)
    return path


def forward(model: torch.nn.Module) -> torch.Tensor:
    """Logits of two utterances, one of them padded."""
    source = torch.randn(2, 97, 80, generator=torch.Generator().manual_seed(3))
    previous = torch.tensor([[2, 5, 6, 7], [2, 4, 4, 5]])
    with torch.no_grad():
        logits: torch.Tensor = model(source, torch.tensor([97, 60]), previous)[0]
    return logits


def test_logits_are_fairseqs(kind: str, checkpoint: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    theirs = load_with_fairseq(checkpoint, monkeypatch)
    ours = load_model(checkpoint).module
    assert type(ours.encoder.conformer_layers[0].self_attn).__name__ == ENCODER_ATTENTION[kind]
    assert ours.state_dict().keys() == theirs.state_dict().keys()
    torch.testing.assert_close(forward(ours), forward(theirs), rtol=0, atol=0)


def test_every_kind_of_attention_gives_other_logits(request: pytest.FixtureRequest) -> None:
    """The four checkpoints have the same seed, so equal logits would mean that an argument did not arrive."""
    logits = [forward(load_model(request.getfixturevalue(name)).module) for name in KINDS]
    for index, one in enumerate(logits):
        assert not any(torch.allclose(one, other, atol=1e-3) for other in logits[:index])


def test_greedy_decoding_follows_the_argmax(checkpoint: Path) -> None:
    """Beam 1 of Fairseq's search, with its incremental state, against a loop over full forward passes."""
    loaded = load_model(checkpoint)
    features = torch.randn(60, 80, generator=torch.Generator().manual_seed(5))
    transcribe = loaded.source.family.transcriber(loaded.source.spec, loaded.module, beam=1, max_len_b=6)
    tokens = argmax_tokens(loaded.module, features, 6)
    symbols = [None, None, None, "<unk>", *PIECES]
    expected = "".join(symbols[token] for token in tokens[1:] if token > 2).replace("\u2581", " ").strip()
    assert expected and transcribe([features]) == [expected]


def test_batch_statistics_are_stored_and_their_counter_is_not(tiny_s2t_conformer: Path, tmp_path: Path) -> None:
    quantize(tiny_s2t_conformer, tmp_path / "q.safetensors", QuantizeConfig())
    stored = load_model(tmp_path / "q.safetensors")
    whole = load_model(tiny_s2t_conformer).module.state_dict()
    names = [name for name in whole if "batch_norm.running_" in name]
    assert len(names) == 4
    for name in names:
        assert whole[name].std() > 0.01  # as after training: not all 0 or 1
        torch.testing.assert_close(stored.module.state_dict()[name], whole[name], rtol=1e-3, atol=1e-6)  # as float16
    assert not any("num_batches_tracked" in name for name in stored.source.tensors)


def test_every_kind_reaches_integer_only(checkpoint: Path, tiny_speech: Path, tmp_path: Path) -> None:
    packed = tmp_path / "q.safetensors"
    quantize(checkpoint, packed, QuantizeConfig(level="integer-only"), calibrate=Calibrate(tiny_speech))
    _, record = analyze(packed, AnalyzeConfig(duration_s=0.5))
    assert record["honesty"]["reached"] == "integer-only", record["honesty"]["prevents"]
    loaded = [load_model(path) for path in (packed, checkpoint)]
    audio, _ = soundfile.read(tiny_speech.parent / "3.flac", dtype="float32")  # like what it was calibrated with
    features = loaded[0].source.family.features(loaded[0].source.spec, audio)
    inputs = (features[None], torch.tensor([len(features)]), torch.tensor([[2, 5, 6, 7]]))
    with torch.inference_mode():
        found, expected = (model.module(*inputs)[0] for model in loaded)
    assert (found - expected).abs().max() < 0.1 * expected.abs().max()


def test_rotary_frequencies_are_computed(tiny_s2t_conformer_rope: Path) -> None:
    loaded = load_model(tiny_s2t_conformer_rope)
    assert not any("inv_freq" in name for name in loaded.source.tensors)
    frequencies = loaded.module.encoder.conformer_layers[0].self_attn.rotary_emb.inv_freq
    torch.testing.assert_close(frequencies, 10000.0 ** (-torch.arange(0, 16, 2) / 16))


def test_rotary_frequencies_of_half_precision_stay_as_trained(
    tiny_s2t_conformer_rope: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def halve(state: dict[str, Any]) -> None:
        state["model"] = {name: x.half() if x.is_floating_point() else x for name, x in state["model"].items()}

    path = changed(tiny_s2t_conformer_rope, tmp_path, halve)
    theirs = load_with_fairseq(path, monkeypatch)
    torch.testing.assert_close(forward(load_model(path).module), forward(theirs), rtol=0, atol=0)
    quantize(path, tmp_path / "q.safetensors", QuantizeConfig())
    name = "encoder.conformer_layers.1.self_attn.rotary_emb.inv_freq"
    stored = load_model(tmp_path / "q.safetensors").module.state_dict()[name]
    torch.testing.assert_close(stored, theirs.state_dict()[name], rtol=0, atol=0)


def test_what_is_not_said_is_fairseqs_default() -> None:
    spec = ModelSpec("s2t_conformer", {"arguments": {}}, PIECES)
    with torch.device("meta"):
        encoder = s2t_conformer.build(spec).encoder
    assert len(encoder.conformer_layers) == 16
    layer = encoder.conformer_layers[0]
    assert type(layer.self_attn).__name__ == "MultiheadAttention" and layer.self_attn.num_heads == 4
    assert layer.conv_module.depthwise_conv.kernel_size == (31,)
    assert layer.ffn1.w_1.weight.shape == (2048, 256)


def test_attention_named_none_is_fairseqs() -> None:
    """Recipes write `--attn-type None`, which arrives as text."""
    checked = check_arguments("x.pt", {"attn_type": "None", "pos_enc_type": "rope"}, "s2t_conformer")
    assert checked == {"attn_type": "None", "pos_enc_type": "rope"}


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("attn_type", "__import__('os').system('touch {marker}')"),
        ("pos_enc_type", "__import__('os').system('touch {marker}')"),
        ("pos_enc_type", ["abs"]),
        ("depthwise_conv_kernel_size", "31"),
        ("depthwise_conv_kernel_size", 30),
        ("depthwise_conv_kernel_size", 10**9),
        ("attn_type", "fairseq"),  # with rel_pos Fairseq's own attention cannot run
        ("encoder_embed_dim", -1),
        ("activation_fn", "__import__('os').system('touch {marker}')"),
    ],
)
def test_arguments_that_no_conformer_has_are_refused(
    tiny_s2t_conformer: Path, tmp_path: Path, name: str, value: Any
) -> None:
    marker = tmp_path / "was-run"
    bad = value.format(marker=marker) if isinstance(value, str) else value
    path = changed(tiny_s2t_conformer, tmp_path, lambda state: setattr(state["cfg"]["model"], name, bad))
    with pytest.raises(AsrCompressError, match=name) as error:
        load_model(path)
    assert str(path) in str(error.value) and "\n" not in str(error.value)
    spec = load_model(tiny_s2t_conformer).source.spec
    hostile = ModelSpec(spec.family, spec.config | {"arguments": spec.config["arguments"] | {name: bad}}, PIECES)
    with pytest.raises(AsrCompressError, match=name):
        s2t_conformer.build(hostile)
    assert not marker.exists()
