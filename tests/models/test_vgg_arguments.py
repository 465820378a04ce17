"""Layer configurations are parsed, never evaluated: what is taken, what is refused, what Fairseq then gets to see."""

from __future__ import annotations

import ast
from pathlib import Path
from typing import Any

import pytest

from asrcompress.errors import AsrCompressError
from asrcompress.models import ModelSpec, fairseq_vgg, vgg_encoder, vgg_transformer
from asrcompress.models.vgg_arguments import check_arguments, parse
from asrcompress.ops.load import load_model
from tests.fixtures.fairseq_files import PIECES, changed


@pytest.mark.parametrize(
    "expression",
    [
        "[(64, 3, 2, 2, True), (128, 3, 2, 2, True)]",
        "((1024, 16, 4096, True, 0.15, 0.15, 0.15),) * 14",
        "2 * ((256, 3, True),)",
        "((256, 3, True),) + ((128, 3, False),) * 2",
        "(-1, 6)",
        "None",
        " [(32, 3, 2, 2, True)] * 2 ",
    ],
)
def test_configurations_mean_what_python_makes_of_them(expression: str) -> None:
    def tuples(value: Any) -> Any:
        return tuple(map(tuples, value)) if isinstance(value, (list, tuple)) else value

    assert parse(expression) == tuples(eval(expression))


@pytest.mark.parametrize(
    "expression",
    [
        "__import__('os').system('true')",
        "[x for x in ()]",
        "(lambda: 1)()",
        "open",
        "'text'",
        "b'bytes'",
        "1j",
        "1e999",
        "{1: 2}",
        "(1).real",
        "((1,),) * 10**9",
        "((1,),) * 201",
        "((1,),) * 2.0",
        "(1,) - (2,)",
        "-(1, 2)",
        "f'{1}'",
        "(1, *(2, 3))",
        "x := 3",
        "",
        "(",
        "(" * 5000,
        "-" * 5000 + "1",
        "[" * 60 + "]" * 60,
        "1," * 20_000,
        "1\x00",
        None,
        3,
        ((32, 3, 2, 2, True),),
    ],
)
def test_everything_else_is_refused(expression: Any) -> None:
    with pytest.raises(ValueError):
        parse(expression)


HOSTILE = "__import__('os').system('touch {marker}')"
BOTH = ["vggblock_enc_config", "transformer_enc_config"]


@pytest.mark.parametrize(
    ("fixture", "name"),
    [("tiny_vgg", name) for name in (*BOTH, "transformer_dec_config", "conv_dec_config")]
    + [("tiny_vgg_encoder", name) for name in (*BOTH, "transformer_context", "transformer_sampling")],
)
def test_arguments_are_never_evaluated(fixture: str, name: str, tmp_path: Path, request: pytest.FixtureRequest) -> None:
    """Fairseq calls eval() on these; a checkpoint and an artifact are refused before that."""
    checkpoint = request.getfixturevalue(fixture)
    marker = tmp_path / "was-run"
    bad = HOSTILE.format(marker=marker)
    path = changed(checkpoint, tmp_path, lambda state: setattr(state["cfg"]["model"], name, bad))
    with pytest.raises(AsrCompressError, match=name) as error:
        load_model(path)
    assert str(path) in str(error.value) and "\n" not in str(error.value)
    source = load_model(checkpoint).source
    arguments = source.spec.config["arguments"] | {name: bad}
    with pytest.raises(AsrCompressError, match=name):
        source.family.build(ModelSpec(source.spec.family, source.spec.config | {"arguments": arguments}, PIECES))
    assert not marker.exists()


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("vggblock_enc_config", "[(4, 4, 2, 2, True)]"),  # an even kernel changes the length
        ("vggblock_enc_config", "[(4, 3, 0, 2, True)]"),
        ("vggblock_enc_config", "[(4, 3, 2, 2)]"),
        ("vggblock_enc_config", "[(4, 3, 2, 2, 'yes')]"),
        ("vggblock_enc_config", "[]"),
        ("transformer_enc_config", "((10**9, 2, 64, True, 0.1, 0.1, 0.1),)"),
        ("transformer_enc_config", "((32, 2, 64, True, 1.5, 0.1, 0.1),)"),
        ("transformer_enc_config", "(32, 2, 64, True, 0.1, 0.1, 0.1)"),
        ("conv_dec_config", "((20, 0, True),) * 2"),
        ("conv_dec_config", "None"),
        ("enc_output_dim", "32"),
        ("enc_output_dim", None),
        ("input_feat_per_channel", 0),
        ("tgt_embed_dim", True),
    ],
)
def test_values_that_no_model_has_are_refused(name: str, value: Any) -> None:
    if value is None:  # not said: Fairseq's default
        assert name not in check_arguments("x.pt", {name: value}, "asr_vggtransformer")
        return
    with pytest.raises(AsrCompressError, match=rf"^x\.pt: the argument {name} has the value"):
        check_arguments("x.pt", {name: value}, "asr_vggtransformer")


def test_a_decoder_of_another_width_than_the_encoder_is_refused() -> None:
    given = {"transformer_dec_config": "((64, 2, 64, True, 0, 0, 0),)", "enc_output_dim": 32}
    with pytest.raises(AsrCompressError, match="64 wide"):
        check_arguments("x.pt", given, "asr_vggtransformer")


def test_a_window_and_a_sampling_reach_the_encoder() -> None:
    given = {
        "transformer_context": "(8, -1)", "transformer_sampling": "(1, 2)", "vggblock_enc_config": "[(2, 3, 2, 1, True)]",
        "transformer_enc_config": "((8, 2, 8, True, 0, 0, 0),) * 2", "enc_output_dim": 8,
    }  # fmt: skip
    encoder = vgg_encoder.build(ModelSpec("asr_vggtransformer_encoder", {"arguments": given}, PIECES)).encoder
    assert encoder.transformer_context == (8, None) and encoder.transformer_sampling == (1, 2)


def test_only_checked_arguments_reach_fairseq(tiny_vgg: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    spec = load_model(tiny_vgg).source.spec
    seen: dict[str, Any] = {}
    monkeypatch.setattr(fairseq_vgg, "build_vgg", lambda arguments, symbols, is_encoder: seen.update(arguments))
    arguments = spec.config["arguments"] | {"load_pretrained_encoder_from": "/some/file.pt", "anything": 1}
    vgg_transformer.build(ModelSpec(spec.family, spec.config | {"arguments": arguments}, PIECES))
    assert seen == spec.config["arguments"]
    for name, value in seen.items():
        assert isinstance(value, int) or ast.literal_eval(value) is not None, name


def test_what_is_not_said_is_fairseqs_default() -> None:
    """Fairseq forgets to write some defaults as text, and then cannot evaluate them."""
    model = vgg_transformer.build(ModelSpec("asr_vggtransformer", {"arguments": {}}, PIECES))
    assert model.encoder.input_dim == 40 and len(model.encoder.conv_layers) == 2
    assert model.decoder.embed_tokens.weight.shape == (10, 128)
