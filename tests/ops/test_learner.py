"""The parts of a student's loss: teachers of another size, in families of every kind; what the record says of them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from asrcompress.errors import AsrCompressError
from asrcompress.ops.finetune import Speech, finetune
from asrcompress.ops.finetune_config import FinetuneConfig
from asrcompress.ops.finetune_data import TrainingSet, read_training_set
from asrcompress.ops.finetune_dev import DevelopmentSet
from asrcompress.ops.learner import Learner
from asrcompress.ops.load import Source, build_float, build_model, open_source
from asrcompress.ops.probe_data import read_probe_data
from asrcompress.ops.quantize import quantize_source
from asrcompress.ops.recipe import QuantizeConfig
from asrcompress.ops.teacher import Teacher
from asrcompress.training.attach import freeze_noise
from asrcompress.training.parallel import Parallel
from asrcompress.training.state import TrainingState
from tests.fixtures.ranks import run_ranks

NARROW = {"encoder_embed_dim": 16, "decoder_embed_dim": 16, "decoder_input_dim": 16, "decoder_output_dim": 16}
SMALLER: dict[str, dict[str, Any]] = {  # fixture -> sizes of a student of it
    "tiny_s2t": {"encoder_layers": 1, "decoder_layers": 1, **NARROW, "encoder_ffn_embed_dim": 24},
    "tiny_s2t_conformer": {"encoder_layers": 1, **NARROW, "encoder_attention_heads": 4},
    "tiny_vgg": {"transformer_enc_config": "((16, 2, 64, True, 0.1, 0.1, 0.1),) * 1"},
    "tiny_vgg_encoder": {"transformer_enc_config": "((16, 2, 64, True, 0.1, 0.1, 0.1),) * 1"},
    "tiny_wav2vec_ctc": {"encoder_layers": 1, "encoder_embed_dim": 16, "encoder_ffn_embed_dim": 24},
    "tiny_hubert_ctc": {"encoder_layers": 1, "encoder_embed_dim": 16},
    "tiny_kws": {"num_channels": 3, "hidden_size": 8, "num_layers": 1},
}  # fmt: skip
ALL = FinetuneConfig(distillation=0.5, attention_loss=0.25, hidden_loss=2.0)


def resized(source: Source, **sizes: Any) -> Source:
    """A model of other sizes with random weights."""
    config = source.spec.config
    spec = replace(
        source.spec, config=config | ({"arguments": config["arguments"] | sizes} if "arguments" in config else sizes)
    )
    torch.manual_seed(5)
    module = source.family.build(spec)
    tensors = {
        name: t.detach().clone() for name, t in module.state_dict().items() if not source.family.is_computed(name)
    }
    return replace(source, path=Path("student.pt"), spec=spec, tensors=tensors, checkpoint=None, content=None)  # fmt: skip


def noise(source: Source, count: int = 4) -> TrainingSet:
    """Utterances of several lengths that mean nothing."""
    family, spec = source.family, source.spec
    lengths = [9_000 + 2_345 * number for number in range(count)]
    audio = [0.1 * torch.randn(n, generator=torch.Generator().manual_seed(n)) for n in lengths]
    features = [family.features(spec, samples.numpy()) for samples in audio]
    tokens = [[1], [0], [1], [0]] if family.TASK == "keyword" else [[5, 4, 2], [4, 2], [6, 5, 4, 2], [5, 2]]
    targets = tuple(torch.tensor(ids) for ids in tokens[:count])
    files = tuple(Path(f"{n}.flac") for n in lengths)
    return TrainingSet(
        files, targets, tuple(map(len, features)), lambda position, update=None: features[position], "noise", "0" * 64
    )


def learner_of(student: Source, teacher: Source | None, train: TrainingSet, config: FinetuneConfig = ALL) -> Learner:
    module = freeze_noise(build_float(student))
    module.load_state_dict(dict(student.tensors), strict=False)
    return Learner(student, module, teacher and Teacher(teacher), train, config)


@pytest.mark.parametrize("fixture", SMALLER)
def test_a_smaller_student_learns_all_there_is(fixture, request):
    source = open_source(request.getfixturevalue(fixture))
    student, train = resized(source, **SMALLER[fixture]), noise(source)
    learner = learner_of(student, source, train)
    loss = learner([0, 2, 3], 0.5, 0)
    loss.backward()
    parts = learner.take_parts()
    assert parts.keys() == {"references", "output", "attention", "hidden"}
    assert all(value > 0 for value in parts.values()), parts
    share = {"references": 0.5, "output": 0.5, "attention": 0.25, "hidden": 2.0}
    assert float(loss.detach()) == pytest.approx(sum(share[name] * value for name, value in parts.items()), rel=1e-5)
    assert learner.take_parts() == {}
    bridges = list(learner.imitation.parameters())
    assert bridges
    assert all(float(bridge.grad.abs().max()) > 0 for bridge in bridges)
    assert learner.describe()["hidden"][0] == [
        "encoder",
        0,
        0 if fixture == "tiny_kws" else 1,
    ]  # the last learns from the last
    # Utterances are worth as much in a batch as alone.
    alone: dict[str, float] = {}
    for position in (0, 2, 3):
        learner([position], 0.5, 0)
        alone = {name: alone.get(name, 0) + value for name, value in learner.take_parts().items()}
    assert alone == pytest.approx(parts, rel=2e-4)


@pytest.mark.parametrize("fixture", ("tiny_s2t_conformer", "tiny_wav2vec_ctc", "tiny_kws"))
def test_the_teacher_itself_has_nothing_left_to_learn(fixture, request):
    source = open_source(request.getfixturevalue(fixture))
    learner = Learner(source, freeze_noise(build_model(source).module), Teacher(source), noise(source), ALL)
    learner([0, 1, 2], 1.0, 0)
    parts = learner.take_parts()
    assert max(parts["output"], parts["attention"], parts["hidden"]) < 1e-4 < parts["references"]


@pytest.mark.parametrize("name", ("attention_loss", "hidden_loss"))
def test_what_is_not_asked_for_is_not_learned(name, tiny_s2t):
    source = open_source(tiny_s2t)
    student, train = resized(source, encoder_layers=1), noise(source)
    plain = learner_of(student, source, train, FinetuneConfig())
    one = learner_of(student, source, train, FinetuneConfig(**{name: 1.0}))
    plain([0], 1.0, 0)
    one([0], 1.0, 0)
    assert plain.describe() is None
    (part,) = one.describe()
    assert name == f"{part}_loss"
    assert one.take_parts().keys() - plain.take_parts().keys() == {part}


def test_layers_alone_are_learned_without_the_teachers_output(tiny_kws):
    source = open_source(tiny_kws)
    learner = learner_of(source, source, noise(source), FinetuneConfig(distillation=0, hidden_loss=1.0))
    learner([0], 1.0, 0)
    assert learner.take_parts().keys() == {"references", "hidden"}


def test_steps_that_do_not_match_are_one_line(tiny_kws, tiny_wav2vec_ctc):
    source = open_source(tiny_kws)
    student, train = resized(source, stride=(2, 10)), noise(source)
    learner_of(student, source, train, FinetuneConfig())([0], 1.0, 0)  # a clip is one step, whatever came before
    with pytest.raises(
        AsrCompressError, match=r"student\.pt: cannot learn layer by layer from .*crnn\.pt: .* 9 .* 11"
    ) as error:
        learner_of(student, source, train)
    assert "\n" not in str(error.value)
    unwritten = replace(student, path=source.path)  # as distill makes it
    with pytest.raises(AsrCompressError, match=r"crnn\.pt: its student cannot learn layer by layer from it: "):
        learner_of(unwritten, source, train)
    source = open_source(tiny_wav2vec_ctc)
    layers = [*source.spec.config["arguments"]["conv_feature_layers"]]
    layers[-1] = [layers[-1][0], layers[-1][1], layers[-1][2] + 1]
    student = resized(source, conv_feature_layers=layers)
    with pytest.raises(
        AsrCompressError, match=r"checkpoint.*: makes \d+ steps of speech that student\.pt makes \d+ of"
    ) as error:
        learner_of(student, source, noise(source), FinetuneConfig())([0], 1.0, 0)
    assert "\n" not in str(error.value)


def test_a_teacher_with_another_front_end_is_one_line(tiny_kws):
    source = open_source(tiny_kws)
    student = resized(source, num_mels=64)
    with pytest.raises(AsrCompressError, match=r"crnn\.pt: has num_mels 40 where student\.pt has 64"):
        learner_of(student, source, noise(student))


def kws_job(samples_dir: Path) -> Callable[..., Any]:
    """Fine-tunes a student of the sample's keyword model, narrower than it, and gives (codes by name, record)."""
    torch.set_num_threads(1)
    teacher = open_source(samples_dir / "kws" / "crnn_computer.pt")
    student = resized(teacher, hidden_size=5)
    manifest, which = samples_dir / "kws" / "manifest.tsv", {"split": "dev", "keyword": "computer", "limit": 14}
    speech = Speech(
        read_training_set(student, manifest, **which), DevelopmentSet(read_probe_data(student, manifest, **which))
    )
    content = quantize_source(student, QuantizeConfig(num_bits=8))
    config = replace(ALL, epochs=3, batch_size=4, learning_rate=1e-2)

    def run(parallel: Parallel | None = None, **given: Any) -> tuple[dict[str, torch.Tensor], dict[str, Any]]:
        found = finetune(student, content, config, speech, teacher=Teacher(teacher), parallel=parallel, **given)
        return {name: weight.codes for name, weight in found.content.quantized.items()}, found.record

    return run


def test_the_record_tells_the_parts_and_ranks_and_stops_change_nothing(samples_dir, tmp_path):
    run = kws_job(samples_dir)
    codes, record = run()
    history = record["history"]
    assert record["layers"] == {"attention": [["encoder", 0, 0]], "hidden": [["encoder", 0, 0]]}
    assert record["options"]["hidden_loss"] == 2.0
    assert history[0]["parts"] is None
    for line in history[1:]:
        parts = line["parts"]
        assert line["training_loss"] == pytest.approx(
            0.5 * parts["references"] + 0.5 * parts["output"] + 0.25 * parts["attention"] + 2 * parts["hidden"],
            rel=1e-5,
        )
    assert history[-1]["parts"]["hidden"] < history[1]["parts"]["hidden"]
    assert not any("bridge" in name for name in [*codes, *record["not_trained"]])

    class Stop(Exception):
        pass

    def stop(progress: Any, total: int) -> None:
        if progress.update == 6:
            raise Stop

    path = tmp_path / "a.training.safetensors"
    with pytest.raises(Stop):
        run(state=TrainingState(path, "one"), on_update=stop)
    went_on, same = run(state=TrainingState(path, "one", resume=True))
    assert same == record
    assert all(torch.equal(codes[name], went_on[name]) for name in codes)

    first, second = run_ranks(2, lambda parallel: run(parallel))
    assert first[1] == second[1]
    for line, other in zip(history[1:], first[1]["history"][1:], strict=True):
        assert other["parts"] == pytest.approx(line["parts"], rel=1e-3)
        assert other["loss"] == pytest.approx(line["loss"], rel=1e-3)


def test_a_model_that_is_split_over_ranks_learns_layers_as_a_whole_one_does(samples_dir):
    torch.set_num_threads(1)
    source, table = open_source(samples_dir / "asr" / "checkpoint_best.pt"), samples_dir / "asr" / "dev.tsv"
    speech = Speech(read_training_set(source, table, limit=4), DevelopmentSet(read_probe_data(source, table, limit=2)))
    content = quantize_source(source, QuantizeConfig(num_bits=4))
    config = replace(ALL, epochs=1, batch_size=2, learning_rate=1e-3)

    def run(parallel: Parallel) -> dict[str, Any]:
        return finetune(source, content, config, speech, parallel=parallel).record["history"][-1]

    whole, (split, _) = run(Parallel()), run_ranks(2, run, is_sharded=True)
    assert min(whole["parts"]["attention"], whole["parts"]["hidden"]) > 1e-3
    assert split["parts"] == pytest.approx(whole["parts"], rel=1e-4)
    assert split["loss"] == pytest.approx(whole["loss"], rel=1e-4)
