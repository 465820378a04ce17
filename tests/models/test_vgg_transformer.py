"""asr_vggtransformer and asr_vggtransformer_encoder against Fairseq itself; how Fairseq's examples get imported."""

from __future__ import annotations

import importlib
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
import torch

from asrcompress.errors import AsrCompressError
from asrcompress.models.fairseq_vgg import import_vggtransformer
from asrcompress.models.features import num_fbank_frames
from asrcompress.ops.load import load_model, open_source
from tests.fixtures.fairseq_files import PIECES, argmax_tokens, changed
from tests.fixtures.vgg import load_vgg_with_fairseq

FILE = "speech_recognition.models.vggtransformer"


def run(model: torch.nn.Module, *, with_decoder: bool) -> torch.Tensor:
    """Logits of two utterances, one of them padded."""
    source = torch.randn(2, 97, 80, generator=torch.Generator().manual_seed(3))
    lengths, previous = torch.tensor([97, 61]), torch.tensor([[2, 5, 6, 7], [2, 4, 4, 5]])
    with torch.no_grad():
        logits: torch.Tensor = (
            model(source, lengths, previous)[0] if with_decoder else model(source, lengths)["encoder_out"]
        )
    return logits


def test_logits_are_load_vgg_with_fairseq(tiny_vgg: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ours, theirs = load_model(tiny_vgg).module, load_vgg_with_fairseq(tiny_vgg, monkeypatch)
    found, expected = run(ours, with_decoder=True), run(theirs, with_decoder=True)
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)  # another kernel of the same convolution
    source, lengths = torch.randn(1, 50, 80), torch.tensor([50])
    with torch.no_grad():  # and the same one in the encoder
        encoded = [model.encoder(source, lengths)["encoder_out"] for model in (ours, theirs)]
    torch.testing.assert_close(encoded[0], encoded[1], rtol=0, atol=0)


def test_logits_of_the_encoder_are_load_vgg_with_fairseq(
    tiny_vgg_encoder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ours, theirs = load_model(tiny_vgg_encoder).module, load_vgg_with_fairseq(tiny_vgg_encoder, monkeypatch)
    assert ours.state_dict().keys() == theirs.state_dict().keys()
    torch.testing.assert_close(run(ours, with_decoder=False), run(theirs, with_decoder=False), rtol=0, atol=0)


def test_weight_norm_is_folded(tiny_vgg: Path) -> None:
    stored = open_source(tiny_vgg)
    before = stored.checkpoint.tensors
    direction, length = before["decoder.conv_layers.0.weight_v"], before["decoder.conv_layers.0.weight_g"]
    module = load_model(tiny_vgg).module
    assert module.state_dict().keys() == stored.tensors.keys()
    expected = direction / direction.pow(2).sum(dim=(0, 1), keepdim=True).sqrt() * length  # (kernel, in, out)
    torch.testing.assert_close(module.get_parameter("decoder.conv_layers.0.conv.weight"), expected.permute(2, 1, 0))


def test_half_a_weight_norm_is_refused(tiny_vgg: Path, tmp_path: Path) -> None:
    path = changed(tiny_vgg, tmp_path, lambda state: state["model"].pop("decoder.conv_layers.0.weight_g"))
    with pytest.raises(AsrCompressError, match=r"decoder\.conv_layers\.0 has a weight norm"):
        load_model(path)


@pytest.mark.parametrize(
    "name",
    ["decoder.embed_tokens.weight", "decoder.conv_layers.0.weight_g", "decoder.conv_layers.0.weight_v", "decoder.conv_layers.1.weight",
     "encoder.transformer_layers.0.self_attn.in_proj_weight", "decoder.fc_out.weight"],
)  # fmt: skip
def test_a_tensor_without_a_shape_is_an_error_of_one_line(tiny_vgg: Path, tmp_path: Path, name: str) -> None:
    path = changed(tiny_vgg, tmp_path, lambda state: state["model"].update({name: torch.tensor(1.0)}))
    with pytest.raises(AsrCompressError) as error:
        load_model(path)
    assert str(path) in str(error.value) and "\n" not in str(error.value)


def test_a_joint_projection_of_old_is_split(tiny_vgg: Path, tmp_path: Path) -> None:
    """Fairseq of 2019 kept the projections of queries, keys and values in one tensor."""

    def join(state: dict[str, Any]) -> None:
        model = state["model"]
        for stem in [name.removesuffix(".q_proj.weight") for name in model if name.endswith(".q_proj.weight")]:
            for kind in ("weight", "bias"):
                parts = [model.pop(f"{stem}.{short}_proj.{kind}") for short in "qkv"]
                model[f"{stem}.in_proj_{kind}"] = torch.cat(parts)

    path = changed(tiny_vgg, tmp_path, join)
    old, new = load_model(path).module, load_model(tiny_vgg).module
    torch.testing.assert_close(run(old, with_decoder=True), run(new, with_decoder=True), rtol=0, atol=0)


@pytest.mark.parametrize("beam", [1, 3])
def test_incremental_decoding_is_the_full_forward_pass(tiny_vgg: Path, beam: int) -> None:
    """Fairseq's search with the convolutions' own buffers: greedy by argmax, and scores of a beam by teacher forcing."""
    from asrcompress.models.fairseq_adapter import import_fairseq, make_dictionary

    model = load_model(tiny_vgg).module
    features = torch.randn(60, 80, generator=torch.Generator().manual_seed(5))
    dictionary = make_dictionary(PIECES)
    generator = import_fairseq().SequenceGenerator([model], dictionary, beam_size=beam, max_len_b=6)
    batch = {"src_tokens": torch.stack([features, features * 0.5]), "src_lengths": torch.tensor([60, 60])}
    best = generator.forward({"net_input": batch})[0][0]
    tokens = [2, *best["tokens"].tolist()]
    if beam == 1:
        greedy = argmax_tokens(model, features, 6)
        assert tokens[: len(greedy)] == greedy
    with torch.no_grad():
        logits = model(features[None], torch.tensor([60]), torch.tensor([tokens[:-1]]))[0][0]
    scores = torch.log_softmax(logits, dim=-1)[torch.arange(len(tokens) - 1), torch.tensor(tokens[1:])]
    torch.testing.assert_close(best["positional_scores"], scores, rtol=1e-4, atol=1e-4)


def test_greedy_text_follows_the_argmax(tiny_vgg: Path) -> None:
    loaded = load_model(tiny_vgg)
    features = torch.randn(60, 80, generator=torch.Generator().manual_seed(5))
    transcribe = loaded.source.family.transcriber(loaded.source.spec, loaded.module, beam=1, max_len_b=6)
    symbols = [None, None, None, "<unk>", *PIECES]
    tokens = argmax_tokens(loaded.module, features, 6)
    expected = "".join(symbols[token] for token in tokens[1:] if token > 2).replace("\u2581", " ").strip()
    assert expected and transcribe([features]) == [expected]


@pytest.mark.parametrize("fixture", ["tiny_vgg", "tiny_vgg_encoder"])
def test_features_are_fairseqs(fixture: str, tiny_speech: Path, request: pytest.FixtureRequest) -> None:
    """As the examples' dataset computes them: 16-bit sample values, Kaldi filter banks, mean and variance."""
    from torchaudio.compliance import kaldi

    import_vggtransformer()
    norm = importlib.import_module("examples.speech_recognition.data.data_utils").apply_mv_norm
    source = open_source(request.getfixturevalue(fixture))
    audio, _ = soundfile.read(tiny_speech.parent / "1.flac", dtype="float32")
    sound = torch.from_numpy(audio)[None] * 2**15
    theirs = norm(kaldi.fbank(sound, num_mel_bins=80, frame_length=25.0, frame_shift=10.0))
    ours = source.family.features(source.spec, audio)
    torch.testing.assert_close(ours, theirs, rtol=0, atol=0)
    assert len(ours) == num_fbank_frames(len(audio) / 16_000)
    one = audio[:400]
    torch.testing.assert_close(
        source.family.features(source.spec, one), norm(kaldi.fbank(sound[:, :400], num_mel_bins=80)), rtol=0, atol=0
    )
    silent = np.zeros(16_000, dtype=np.float32)  # a variance of 0 divides by a small number, not by 0
    assert torch.isfinite(source.family.features(source.spec, silent)).all()


@pytest.mark.parametrize(
    ("arch", "family"),
    [
        ("vggtransformer_1", "asr_vggtransformer"),
        ("vggtransformer_2", "asr_vggtransformer"),
        ("vggtransformer_base", "asr_vggtransformer"),
        ("asr_vggtransformer", "asr_vggtransformer"),
    ],
)
def test_published_architectures_are_recognised(tiny_vgg: Path, tmp_path: Path, arch: str, family: str) -> None:
    path = changed(tiny_vgg, tmp_path, lambda state: setattr(state["cfg"]["model"], "arch", arch))
    assert open_source(path).spec.family == family


@pytest.mark.parametrize("arch", ["vggtransformer_enc_1", "asr_vggtransformer_encoder"])
def test_published_encoders_are_recognised(tiny_vgg_encoder: Path, tmp_path: Path, arch: str) -> None:
    path = changed(tiny_vgg_encoder, tmp_path, lambda state: setattr(state["cfg"]["model"], "arch", arch))
    assert open_source(path).spec.family == "asr_vggtransformer_encoder"


def test_a_dictionary_elsewhere_is_asked_for(tiny_vgg: Path, tmp_path: Path) -> None:
    path = changed(tiny_vgg, tmp_path, lambda state: None)
    (tmp_path / "data").mkdir()
    (tmp_path / "dict.txt").rename(tmp_path / "data" / "dict.txt")
    with pytest.raises(AsrCompressError, match=r"its dict\.txt \(vocabulary\) is not in .*--data-dir"):
        open_source(path)
    assert open_source(path, data_dir=tmp_path / "data").spec.vocabulary == PIECES
    (tmp_path / "data" / "dict.txt").write_text("a 1\n")
    with pytest.raises(AsrCompressError, match="has 10 output units, the dictionary in"):
        open_source(path, data_dir=tmp_path / "data")


def test_the_module_is_one_whatever_its_name() -> None:
    """Registering a model twice fails, so every name has to mean the module that is there already."""
    vgg = import_vggtransformer()
    assert import_vggtransformer() is vgg
    for package in ("examples", "fairseq.examples"):
        assert importlib.import_module(f"{package}.{FILE}") is vgg
    whole = importlib.import_module("examples.speech_recognition")  # the package with its tasks and criteria
    assert whole.models is not None
    assert importlib.import_module(f"examples.{FILE}") is vgg


@pytest.mark.parametrize("name", ["examples", "fairseq.examples"])
def test_an_import_under_one_name_counts_for_the_other(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    vgg = import_vggtransformer()
    monkeypatch.delitem(sys.modules, f"{name}.{FILE}")
    assert import_vggtransformer() is vgg and sys.modules[f"{name}.{FILE}"] is vgg


FOREIGN_EXAMPLES = """
import sys
sys.path.insert(0, sys.argv[1])
from asrcompress.models.fairseq_vgg import import_vggtransformer
vgg = import_vggtransformer()
from fairseq.examples.speech_recognition.models.vggtransformer import VGGTransformerModel as one
from examples.speech_recognition.models.vggtransformer import VGGTransformerModel as other
from fairseq.models import MODEL_REGISTRY
assert one is other is MODEL_REGISTRY["asr_vggtransformer"]
import examples
assert examples.mine
"""


def test_somebody_elses_examples_stay_theirs(tmp_path: Path) -> None:
    (tmp_path / "examples").mkdir()
    (tmp_path / "examples" / "__init__.py").write_text("mine = True\n")
    done = subprocess.run([sys.executable, "-c", FOREIGN_EXAMPLES, str(tmp_path)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
