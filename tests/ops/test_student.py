"""Students of every family: sizes that come true, tensors that are the teacher's, the rest from the seed; they learn."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
import soundfile
import torch

from asrcompress.errors import AsrCompressError
from asrcompress.models import FAMILIES, criterion, get_family
from asrcompress.ops.load import Source, build_model, open_source
from asrcompress.ops.quantize import QuantizeConfig, quantize
from asrcompress.ops.student import make_student
from tests.models.test_family_contract import TINY, losses

# A size of each kind for the tiny teachers, all of which have 2 layers, widths of 32 and 2 heads (the CRNN: 2 channels, 12 hidden).
SIZES = {
    "s2t": "encoder_layers=3,dim=24,ffn=40,heads=4,decoder_layers=1,decoder_dim=20,decoder_ffn=28,decoder_heads=5,conv_channels=20",
    "vgg": "encoder_layers=3,dim=24,ffn=40,heads=4,channels=3x5",
    "vgg_decoder": "decoder_layers=1,decoder_dim=20,decoder_ffn=28,decoder_heads=5,embed_dim=12,decoder_channels=6x7",
    "ctc": "encoder_layers=3,dim=24,ffn=40,heads=3,conv_dim=10",
}  # fmt: skip
ALL_SIZES = {
    "s2t_transformer": SIZES["s2t"],
    "s2t_conformer": SIZES["s2t"],
    "asr_vggtransformer": f"{SIZES['vgg']},{SIZES['vgg_decoder']}",
    "asr_vggtransformer_encoder": SIZES["vgg"],
    "kws_crnn": "channels=3,hidden=7,layers=1,kernel=6x10,stride=3x4",
    "wav2vec_ctc": SIZES["ctc"],
    "hubert_ctc": SIZES["ctc"],
}
# Names of the layers, before their number.
STACKS = {
    "s2t_transformer": ["encoder.transformer_layers", "decoder.layers"],
    "s2t_conformer": ["encoder.conformer_layers", "decoder.layers"],
    "asr_vggtransformer": ["encoder.transformer_layers", "decoder.layers"],
    "asr_vggtransformer_encoder": ["encoder.transformer_layers"],
    "kws_crnn": ["gru"],
    "wav2vec_ctc": ["w2v_encoder.w2v_model.encoder.layers"],
    "hubert_ctc": ["w2v_encoder.w2v_model.encoder.layers"],
}
TRAINED_BY_FAIRSEQ_ALONE = "encoder.ctc_proj."


@pytest.fixture(params=sorted(FAMILIES))
def teacher(request: pytest.FixtureRequest) -> Source:
    return open_source(request.getfixturevalue(TINY[request.param]))


def name(teacher: Source) -> str:
    return teacher.spec.family


def log_probs(source: Source) -> list[torch.Tensor]:
    with torch.no_grad():
        return losses(build_model(source))[0]


def numbers(source: Source, stack: str) -> list[int]:
    """Numbers of the layers of a stack of transformer layers."""
    found = [re.match(rf"{re.escape(stack)}\.(\d+)\.self_attn\.", key) for key in source.tensors]
    return sorted({int(match[1]) for match in found if match})


def test_a_student_of_the_same_size_is_its_teacher(teacher: Source) -> None:
    student = make_student(teacher, shrink=1.0)
    expected = {key for key in teacher.tensors if not key.startswith(TRAINED_BY_FAIRSEQ_ALONE)}
    assert set(student.record["copied"]) == set(student.source.tensors) == expected
    assert student.record["num_copied_params"] == student.record["num_params"]
    for found, value in zip(log_probs(student.source), log_probs(teacher), strict=True):
        torch.testing.assert_close(found, value, rtol=0, atol=0)


def test_a_student_with_one_layer_has_the_first_of_its_teacher(teacher: Source) -> None:
    layers = [option for option in get_family(name(teacher)).STUDENT_OPTIONS if option.endswith("layers")]
    student = make_student(teacher, f"{name(teacher)}:{','.join(f'{option}=1' for option in layers)}")
    copied = set(student.record["copied"])
    assert copied == set(student.source.tensors)
    for stack in STACKS[name(teacher)]:
        first = 0 if name(teacher) == "kws_crnn" else min(numbers(teacher, stack))
        assert student.record["layers"][stack] == [first]
        begin = "gru." if name(teacher) == "kws_crnn" else f"{stack}.{first}."
        for key in [key for key in copied if key.startswith(begin)]:
            torch.testing.assert_close(student.source.tensors[key], teacher.tensors[key].float(), rtol=0, atol=0)
    assert all(torch.isfinite(rows).all() for rows in log_probs(student.source))


def test_every_size_comes_true(teacher: Source) -> None:
    """A student's own sizes, read from what was built, are those that were asked for; and it answers."""
    student = make_student(teacher, f"{name(teacher)}:{ALL_SIZES[name(teacher)]}")
    asked = {part.partition("=")[0] for part in ALL_SIZES[name(teacher)].split(",")}
    assert asked == set(get_family(name(teacher)).STUDENT_OPTIONS) == set(student.record["sizes"])
    for part in ALL_SIZES[name(teacher)].split(","):
        option, _, value = part.partition("=")
        found = student.record["sizes"][option]
        assert "x".join(map(str, found if isinstance(found, list) else [found])) == value
    again = make_student(student.source, shrink=1.0)
    assert again.record["sizes"] == student.record["sizes"]
    assert len(again.record["copied"]) == len(student.source.tensors)
    assert all(torch.isfinite(rows).all() for rows in log_probs(student.source))


def test_half_a_teacher_learns(teacher: Source) -> None:
    """Half the layers and widths: a step down the gradient lowers the loss by what the gradient says."""
    student = make_student(teacher, shrink=0.5)
    assert student.record["num_params"] < 0.5 * student.record["num_teacher_params"]
    json.dumps(student.record, allow_nan=False)
    loaded = build_model(student.source)
    assert all(weight.dtype == torch.float32 for weight in loaded.module.parameters())
    before = losses(loaded)[1].sum()
    before.backward()
    with torch.no_grad():
        assert all(weight.grad is not None for weight in loaded.module.parameters())
        slope = sum(float((weight.grad**2).sum()) for weight in loaded.module.parameters())
        for weight in loaded.module.parameters():
            weight -= 1e-3 * float(before) / slope * weight.grad
        assert float(before - losses(loaded)[1].sum()) == pytest.approx(1e-3 * float(before), rel=0.2)


def test_what_is_not_copied_comes_from_the_seed_alone(teacher: Source) -> None:
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    first = make_student(teacher, shrink=0.5, seed=1)
    torch.testing.assert_close(torch.rand(3), expected, rtol=0, atol=0)
    same, other = make_student(teacher, shrink=0.5, seed=1), make_student(teacher, shrink=0.5, seed=2)
    drawn = [key for key in first.source.tensors if key not in first.record["copied"]]
    assert all(torch.equal(first.source.tensors[key], same.source.tensors[key]) for key in first.source.tensors)
    assert any(not torch.equal(first.source.tensors[key], other.source.tensors[key]) for key in drawn)
    assert first.record["copied"] == other.record["copied"]


def test_a_packed_teacher_gives_the_numbers_that_its_codes_stand_for(teacher: Source, tmp_path: Path) -> None:
    quantize(teacher.path, tmp_path / "q.safetensors", QuantizeConfig(num_bits=4))
    packed = open_source(tmp_path / "q.safetensors")
    student = make_student(packed, shrink=1.0)
    weights = packed.content.quantized
    assert weights and student.source.content is None
    for key, tensor in student.source.tensors.items():
        value = weights[key].dequantize() if key in weights else packed.tensors.get(key)
        if value is not None:  # one of two names of a tied weight is not stored
            torch.testing.assert_close(tensor, value.float(), rtol=0, atol=0)
    assert set(student.record["copied"]) == set(student.source.tensors)


def test_attention_with_other_heads_is_not_copied(tiny_s2t: Path) -> None:
    """Its shapes are the same, and what they mean is not."""
    student = make_student(open_source(tiny_s2t), "s2t_transformer:heads=4,decoder_heads=2")
    missing = {key for key in student.source.tensors if key not in student.record["copied"]}
    assert missing == {key for key in student.source.tensors if key.startswith("encoder.") and ".self_attn." in key}


def test_a_module_is_copied_whole_or_not_at_all(tiny_s2t: Path) -> None:
    """The bias of a matrix of another shape stays behind with it."""
    student = make_student(open_source(tiny_s2t), "s2t_transformer:ffn=40")
    missing = {key for key in student.source.tensors if key not in student.record["copied"]}
    assert missing == {key for key in student.source.tensors if ".fc1." in key or ".fc2." in key}
    assert sum(key.endswith("fc2.bias") for key in missing) == 4


def test_the_samples_teacher_is_copied_by_every_other_layer(samples_dir: Path) -> None:
    teacher = open_source(samples_dir / "asr" / "checkpoint_best.pt")
    student = make_student(teacher, "s2t_transformer:encoder_layers=2,decoder_layers=1")
    assert student.record["layers"] == {"encoder.transformer_layers": [0, 2], "decoder.layers": [0]}
    assert student.record["num_copied_params"] == student.record["num_params"]
    for ours, theirs in (
        ("encoder.transformer_layers.0", "encoder.transformer_layers.0"),
        ("encoder.transformer_layers.1", "encoder.transformer_layers.2"),
    ):
        key = ".self_attn.q_proj.weight"
        assert torch.equal(student.source.tensors[ours + key], teacher.tensors[theirs + key])


def test_the_reports_sizes(kws_dir: Path) -> None:
    teacher = open_source(kws_dir / "crnn_happy.pt")
    for text, expected in (
        ("channels=8,hidden=64", 70443),
        ("channels=4,hidden=32", 18071),
        ("channels=4,hidden=16", 6679),
        ("channels=2,hidden=12", 3133),
    ):
        assert make_student(teacher, f"kws_crnn:{text}").record["num_params"] == expected
    assert make_student(teacher, shrink=0.5).record["sizes"]["hidden"] == 32
    mixed = make_student(teacher, "kws_crnn:hidden=12", shrink=0.25).record
    assert (mixed["sizes"]["channels"], mixed["sizes"]["hidden"], mixed["num_params"]) == (2, 12, 3133)


def test_a_conformers_positions_decide_its_widths(
    tiny_s2t_conformer: Path, tiny_s2t_conformer_rope: Path, tiny_s2t_conformer_fairseq: Path
) -> None:
    rope = open_source(tiny_s2t_conformer_rope)
    with pytest.raises(
        AsrCompressError,
        match="dim=6: is no multiple of 4, twice the number of heads, as rotary positions need; use 4 or 8",
    ):
        make_student(rope, "s2t_conformer:dim=6")
    for path in (tiny_s2t_conformer, tiny_s2t_conformer_rope, tiny_s2t_conformer_fairseq):
        student = make_student(open_source(path), shrink=0.4)
        assert all(torch.isfinite(rows).all() for rows in log_probs(student.source))


def test_frames_that_layers_leave_out_are_left_out_by_the_student(tmp_path: Path) -> None:
    from asrcompress.models import ModelSpec
    from asrcompress.models.vgg_student import student
    from tests.fixtures.vgg import ENCODER

    arguments = ENCODER | {
        "transformer_enc_config": "((32, 2, 64, True, 0.1, 0.1, 0.1),) * 4",
        "transformer_sampling": "(2, 1, 1, 2)",
    }
    spec = ModelSpec("asr_vggtransformer_encoder", {"arguments": arguments})
    for layers, expected in ((1, "(4,)"), (2, "(2, 2)"), (3, "(2, 1, 2)"), (5, "(1, 2, 1, 1, 2)"), (4, "(2, 1, 1, 2)")):
        assert (
            student(spec, {"encoder_layers": layers}, None)[0].config["arguments"]["transformer_sampling"] == expected
        )


@pytest.mark.parametrize(
    ("fixture", "text", "message"),
    [
        ("tiny_kws", "s2t_transformer:dim=8", "is a kws_crnn, and so is its student; write kws_crnn:"),
        ("tiny_kws", "kws_crnn:kernel=41x20", "kernel=41x20: a clip is 40 mel bins x 101 frames"),
        ("tiny_kws", "kws_crnn:kernel=5x102", "kernel=5x102: a clip is 40 mel bins x 101 frames"),
        ("tiny_s2t", "s2t_transformer:heads=5", "dim=32: is no multiple of 5, the number of heads; use 30 or 35"),
        ("tiny_s2t", "s2t_transformer:decoder_dim=31", "decoder_dim=31: is no multiple of 2"),
        ("tiny_s2t", "s2t_transformer:dim=2", "dim=2: is too narrow for positions; use 4 or more"),
        ("tiny_s2t", "s2t_transformer:conv_channels=31", "conv_channels=31: is no multiple of 2"),
        ("tiny_vgg", "asr_vggtransformer:dim=31", "dim=31: is no multiple of 2"),
        ("tiny_vgg", "asr_vggtransformer:channels=4", "channels: gives 1 of 2 numbers of channels; use such as 4x8"),
        ("tiny_vgg_encoder", "asr_vggtransformer_encoder:decoder_layers=1", "has no size 'decoder_layers'"),
        ("tiny_wav2vec_ctc", "wav2vec_ctc:dim=34", "dim=34: is no multiple of 4"),
    ],
)  # fmt: skip
def test_a_student_that_cannot_be_is_an_error_of_one_line(
    fixture: str, text: str, message: str, request: pytest.FixtureRequest
) -> None:
    with pytest.raises(AsrCompressError) as error:
        make_student(open_source(request.getfixturevalue(fixture)), text)
    assert str(error.value).startswith(f"--student {text}: ")
    assert message in str(error.value) and "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("fixture", "text"),
    [
        ("tiny_kws", "kws_crnn:hidden=1000000"),
        ("tiny_s2t", "s2t_transformer:dim=1000000"),
        ("tiny_vgg", "asr_vggtransformer:channels=1000000x1000000"),
        ("tiny_wav2vec_ctc", "wav2vec_ctc:ffn=1000000"),
    ],
)
def test_a_student_that_memory_could_not_hold_is_refused_before_it_is_made(
    fixture: str, text: str, request: pytest.FixtureRequest
) -> None:
    with pytest.raises(AsrCompressError, match=r"would have [\d,]+ parameters, [\d,]+ times the teacher's") as error:
        make_student(open_source(request.getfixturevalue(fixture)), text)
    assert str(error.value).startswith(f"--student {text}: ")


def test_a_student_needs_a_size(tiny_kws: Path) -> None:
    with pytest.raises(AsrCompressError, match="--student .* or --shrink 0.5"):
        make_student(open_source(tiny_kws))


def test_what_training_starts_from_is_drawn_as_fairseq_draws_it(tiny_wav2vec_ctc: Path, tiny_vgg: Path) -> None:
    """Building for a checkpoint leaves these at what torch draws, since they are overwritten."""
    tensors = make_student(open_source(tiny_wav2vec_ctc), "wav2vec_ctc:dim=64,ffn=256").source.tensors
    layer = "w2v_encoder.w2v_model.encoder.layers.0"
    assert float(tensors[f"{layer}.fc1.weight"].std()) == pytest.approx(0.02, rel=0.05)
    assert float(tensors[f"{layer}.self_attn.q_proj.weight"].std()) == pytest.approx(0.02, rel=0.1)
    assert not tensors[f"{layer}.fc1.bias"].any()
    tensors = make_student(
        open_source(tiny_vgg), "asr_vggtransformer:decoder_channels=40x60,embed_dim=30"
    ).source.tensors
    assert float(tensors["decoder.conv_layers.0.conv.weight"].std()) == pytest.approx((4 / 90) ** 0.5, rel=0.05)
    assert not tensors["decoder.conv_layers.0.conv.bias"].any()


def test_half_of_a_real_encoder_starts_as_a_working_model(digits_dir: Path) -> None:
    """Loss in nats a token on real speech: the teacher 0.2, half of its encoder 0.5, as many layers drawn anew far above."""
    rows = [line.split("\t") for line in (digits_dir / "dev.tsv").read_text().splitlines()[:13]]
    audio, text = rows[0].index("audio"), rows[0].index("tgt_text")
    teacher = open_source(digits_dir / "checkpoint_best.pt")
    family, spec = teacher.family, teacher.spec
    features = [family.features(spec, soundfile.read(digits_dir / row[audio], dtype="float32")[0]) for row in rows[1:]]
    targets = family.read_targets(spec, digits_dir, [row[text] for row in rows[1:]])

    def loss(source: Source) -> float:
        with torch.no_grad():
            found = family.log_probs(source.spec, build_model(source).module, features, targets)
            sums, counts = criterion.negative_log_likelihood(family, source.spec, found, targets)
        return float(sums.sum() / counts.sum())

    half = make_student(teacher, "s2t_transformer:encoder_layers=3")
    assert half.record["layers"]["encoder.transformer_layers"] == [0, 2, 4]
    assert loss(half.source) < 0.7
    assert loss(make_student(teacher, "s2t_transformer:encoder_layers=3,dim=140").source) > 2.0
