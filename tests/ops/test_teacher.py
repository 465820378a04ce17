"""What a teacher says, and what it remembers; whom it cannot teach; what it writes down."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor

from asrcompress.errors import AsrCompressError
from asrcompress.ops import teacher as module
from asrcompress.ops.finetune_data import TrainingSet, read_training_set
from asrcompress.ops.hypotheses import transcribe
from asrcompress.ops.load import Source, build_model, load_model, open_source
from asrcompress.ops.quantize import quantize
from asrcompress.ops.recipe import QuantizeConfig
from asrcompress.ops.teacher import Teacher, require_pair
from tests.ops.test_ranks import together


@pytest.fixture(scope="module")
def kws(samples_dir: Path) -> tuple[Source, TrainingSet]:
    source = open_source(samples_dir / "kws" / "crnn_computer.pt")
    return source, read_training_set(
        source, samples_dir / "kws" / "manifest.tsv", limit=8, split="dev", keyword="computer"
    )


@pytest.fixture(scope="module")
def asr(samples_dir: Path) -> tuple[Source, TrainingSet]:
    source = open_source(samples_dir / "asr" / "checkpoint_best.pt")
    return source, read_training_set(source, samples_dir / "asr" / "dev.tsv", limit=5)


def heard(train: TrainingSet, *positions: int) -> tuple[list[Tensor], list[Tensor]]:
    return [train.read(position) for position in positions], [train.targets[position] for position in positions]


def count_runs(teacher: Teacher) -> list[int]:
    """Utterances of each run of its model from now on, in a list that grows."""
    runs: list[int] = []
    teacher.module.register_forward_pre_hook(lambda module, inputs: runs.append(len(inputs[0])))
    return runs


@pytest.mark.parametrize("which", ("kws", "asr"))
def test_what_it_says_is_what_its_file_gives_each_utterance_alone(which, request):
    source, train = request.getfixturevalue(which)
    teacher, model = Teacher(source), build_model(source).module
    runs = count_runs(teacher)
    features, targets = heard(train, 0, 1, 4)
    for _ in range(2):
        for index, lesson in enumerate(teacher.listen(features, targets)):
            with torch.no_grad():
                (rows,) = source.family.log_probs(source.spec, model, [features[index]], [targets[index]])
            assert torch.allclose(lesson.log_probs, rows, rtol=1e-5, atol=1e-6)
            assert lesson.layers.tensors == []
    assert runs == [1, 1, 1]  # and remembered
    assert not any(parameter.requires_grad for parameter in teacher.module.parameters())


def test_it_remembers_by_what_was_heard_and_asked(kws, asr):
    source, train = kws
    teacher = Teacher(source)
    runs = count_runs(teacher)
    features, targets = heard(train, 0)
    teacher.listen(features, targets)
    teacher.listen([features[0].clone()], targets)
    assert len(runs) == 1
    louder, _ = teacher.listen([features[0] + 0.5, features[0]], targets * 2)
    assert not torch.equal(louder.log_probs, teacher.listen(features, targets)[0].log_probs)
    assert len(runs) == 2
    lesson = teacher.listen(features, targets, maps=True)[0]
    assert len(lesson.layers.tensors) == 1
    assert len(runs) == 3
    source, train = asr
    decoder = Teacher(source)
    features, targets = heard(train, 0)
    first, second = decoder.listen(features, targets), decoder.listen(features, [targets[0].roll(1)])
    assert not torch.equal(first[0].log_probs, second[0].log_probs)  # a decoder is told something else


def test_passing_clips_run_together_and_are_kept_for_the_next_student_alone(kws):
    source, train = kws
    features, targets = heard(train, 0, 1, 2)
    for is_shared, expected in ((False, [3, 3]), (True, [3])):
        teacher = Teacher(source, is_shared=is_shared)
        runs = count_runs(teacher)
        first = teacher.listen(features, targets, passing=True, outputs=True)
        again = teacher.listen(features, targets, passing=True, outputs=True)
        assert runs == expected
        for one, other in zip(first, again, strict=True):
            assert torch.equal(one.log_probs, other.log_probs)
            assert torch.equal(*(lesson.layers.outputs["encoder"][0] for lesson in (one, other)))
    alone = Teacher(source).listen(features, targets)
    assert all(torch.allclose(a.log_probs, b.log_probs, atol=1e-5) for a, b in zip(alone, first, strict=True))


def test_what_does_not_fit_is_computed_anew_to_the_same_bits(kws):
    source, train = kws
    features, targets = heard(train, *range(6))
    small = Teacher(source, cache_bytes=2 * (module.LESSON_BYTES + 8))
    runs = count_runs(small)
    first = small.listen(features, targets)
    again = small.listen(features, targets)
    assert len(runs) == 6 + 4
    assert all(torch.equal(one.log_probs, other.log_probs) for one, other in zip(first, again, strict=True))


@pytest.mark.parametrize("num_samples", (9_000, 9_100))
def test_layers_end_where_the_utterance_does(num_samples, tiny_wav2vec_ctc):
    """wav2vec's encoder fills up to an even number of frames: 112, and 113."""
    source = open_source(tiny_wav2vec_ctc)
    audio = 0.1 * torch.randn(num_samples, generator=torch.Generator().manual_seed(1))
    features = source.family.features(source.spec, audio.numpy())
    teacher = Teacher(source)
    for part in teacher.module.modules():
        if hasattr(part, "required_seq_len_multiple"):
            part.required_seq_len_multiple = 2  # as Fairseq has it where nothing is said
    (lesson,) = teacher.listen([features], [torch.tensor([5])], outputs=True)
    assert lesson.layers.tensors
    assert {len(layer) for layer in lesson.layers.tensors} == {len(lesson.log_probs)}


def test_what_is_kept_is_no_more_than_it_is(kws):
    """Views would hold on to whole batches."""
    source, train = kws
    for lesson in Teacher(source).listen(*heard(train, 0, 1, 2), passing=True, maps=True, outputs=True):
        for tensor in (lesson.log_probs, *lesson.layers.tensors):
            assert tensor.untyped_storage().nbytes() == tensor.nbytes


def test_packed_weights_teach_as_the_floats_they_stand_for(kws, tmp_path, samples_dir):
    _, train = kws
    quantize(samples_dir / "kws" / "crnn_computer.pt", tmp_path / "q.safetensors", QuantizeConfig(num_bits=4))
    packed = load_model(tmp_path / "q.safetensors")
    features, targets = heard(train, 0, 1)
    with torch.no_grad():
        rows = packed.source.family.log_probs(packed.source.spec, packed.module, features, targets)
    lessons = Teacher(packed.source).listen(features, targets)
    assert all(torch.allclose(lesson.log_probs, own, atol=1e-4) for lesson, own in zip(lessons, rows, strict=True))


def changed(source: Source, vocabulary: list[str] | None = None, **config: object) -> Source:
    spec = replace(source.spec, vocabulary=vocabulary or source.spec.vocabulary, config=source.spec.config | config)
    return replace(source, path=Path("other.pt"), spec=spec)


def test_whom_it_cannot_teach(kws, asr):
    keyword, transcriber = kws[0], asr[0]
    front_end = transcriber.spec.config["front_end"]
    require_pair(keyword, keyword)
    require_pair(transcriber, changed(transcriber, arguments={"encoder_layers": 1}))  # sizes are its own affair
    for student, teacher, said in (
        (keyword, transcriber, "is a s2t_transformer and cannot teach .*crnn_computer.pt, a kws_crnn"),
        (transcriber, changed(transcriber, vocabulary=["a", "b"]), "other.pt: has another vocabulary than"),
        (keyword, changed(keyword, num_mels=64), "other.pt: has num_mels 64 where .*crnn_computer.pt has 40"),
        (transcriber, changed(transcriber, front_end=front_end | {"transforms": []}), "other.pt: has front_end "),
    ):
        with pytest.raises(AsrCompressError, match=said) as error:
            require_pair(teacher, student)
        assert "\n" not in str(error.value)


def test_the_teachers_transcripts_are_what_its_beam_search_writes(asr, samples_dir):
    source, train = asr
    blurred = {
        name: tensor + 0.05 * torch.randn(tensor.shape, generator=torch.Generator().manual_seed(1))
        if tensor.is_floating_point()
        else tensor
        for name, tensor in source.tensors.items()
    }
    worse = replace(source, tensors=blurred)  # so that what it writes is not what was said
    teacher, told = Teacher(worse), []
    found = transcribe(teacher, source, train, progress=lambda done, total: told.append((done, total)))
    decode = source.family.transcriber(source.spec, build_model(worse).module, beam=5)
    texts = decode([train.read(position) for position in range(5)])
    expected = source.family.read_targets(source.spec, samples_dir / "asr", texts)
    assert all(torch.equal(*pair) for pair in zip(found.train.targets, expected, strict=True))
    unlike = sum(not torch.equal(*pair) for pair in zip(expected, train.targets, strict=True))
    assert unlike > 0
    assert found.record == {
        "search": {"beam": 5, "lenpen": 1.0, "max_len_a": 0.0, "max_len_b": 200},
        "num_transcripts": 5, "num_unlike_reference": unlike, "num_empty": texts.count(""),
    }  # fmt: skip
    assert told[0] == (0, 5)
    assert told[-1] == (5, 5)
    assert (found.train.files, found.train.lengths) == (train.files, train.lengths)
    teacher.module.register_forward_pre_hook(lambda module, inputs: pytest.fail("decoded again"))
    again = transcribe(teacher, source, train)  # for the next student
    assert all(torch.equal(*pair) for pair in zip(again.train.targets, found.train.targets, strict=True))


def test_ranks_share_the_transcribing_and_have_all_of_it(asr, monkeypatch):
    source, train = asr
    monkeypatch.setattr("asrcompress.ops.hypotheses.BATCH_SIZE", 2)
    alone = transcribe(Teacher(source), source, train).train.targets
    done = []

    def work(ranks):
        found = transcribe(Teacher(source), source, train, ranks=ranks, progress=lambda d, total: done.append(total))
        ranks.leave()
        return found.train.targets

    for targets in together(2, work):
        assert all(torch.equal(*pair) for pair in zip(targets, alone, strict=True))
    assert set(done) == {2, 3}


def test_a_keyword_model_writes_nothing_down(kws):
    source, train = kws
    with pytest.raises(AsrCompressError, match=r"--sequence-level: is for models that transcribe, and .*computer\.pt"):
        transcribe(Teacher(source), source, train)
