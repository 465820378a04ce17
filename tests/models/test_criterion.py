"""The loss of references: Fairseq's own criterions on the same utterances, and CTC against a sum over every path."""

from __future__ import annotations

import itertools
import math
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from asrcompress.checkpoints import read_checkpoint
from asrcompress.models import criterion, get_family
from asrcompress.models.fairseq_adapter import make_dictionary
from asrcompress.ops.load import LoadedModel, load_model
from asrcompress.speech.audio import read_audio
from asrcompress.speech.datasets import read_utterances
from tests.fixtures import ctc as fixtures
from tests.fixtures.fairseq_files import load_with_fairseq
from tests.fixtures.vgg import load_vgg_with_fairseq

TEXTS = ["go left", "stop", "", "right go lefts"]


def frames(loaded: LoadedModel, *lengths: int) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    bins = loaded.source.spec.config["front_end"]["num_mel_bins"]
    return [torch.randn(length, bins, generator=generator) for length in lengths]


def loss(
    loaded: LoadedModel, features: list[torch.Tensor], targets: list[torch.Tensor]
) -> tuple[list[float], list[int]]:
    family, spec = loaded.source.family, loaded.source.spec
    with torch.no_grad():
        rows = family.log_probs(spec, loaded.module, features, targets)
    sums, counts = criterion.negative_log_likelihood(family, spec, rows, targets)
    return sums.tolist(), counts.tolist()


def fairseq_cross_entropy(
    model: torch.nn.Module, symbols: list[str], features: torch.Tensor, target: torch.Tensor, *, smoothed: bool
) -> tuple[float, int]:
    """Of one utterance, through Fairseq's own collater of tokens and its criterion."""
    from fairseq.criterions.cross_entropy import CrossEntropyCriterion
    from fairseq.criterions.label_smoothed_cross_entropy import LabelSmoothedCrossEntropyCriterion
    from fairseq.data.data_utils import collate_tokens

    task = SimpleNamespace(target_dictionary=make_dictionary(symbols))
    scorer = (
        LabelSmoothedCrossEntropyCriterion(task, sentence_avg=False, label_smoothing=0.0)
        if smoothed
        else CrossEntropyCriterion(task, sentence_avg=False)
    )
    previous = collate_tokens([target], 1, 2, left_pad=False, move_eos_to_beginning=True)
    net_input = {
        "src_tokens": features[None],
        "src_lengths": torch.tensor([len(features)]),
        "prev_output_tokens": previous,
    }
    sample = {"net_input": net_input, "target": target[None], "ntokens": len(target)}
    with torch.no_grad():
        total, size, _ = scorer(model, sample)
    return float(total), int(size)


@pytest.mark.parametrize("fixture", ["tiny_s2t", "tiny_s2t_conformer", "tiny_vgg"])
def test_cross_entropy_is_fairseqs(
    fixture: str, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = request.getfixturevalue(fixture)
    loaded = load_model(path)
    spec = loaded.source.spec
    theirs = (load_vgg_with_fairseq if fixture == "tiny_vgg" else load_with_fairseq)(path, monkeypatch)
    features = frames(loaded, 61, 90, 40, 90)
    targets = loaded.source.family.read_targets(spec, path.parent, TEXTS)
    expected = [
        fairseq_cross_entropy(theirs, spec.vocabulary or [], features[index], targets[index], smoothed=index % 2 == 0)
        for index in range(len(TEXTS))
    ]
    sums, counts = loss(loaded, features, targets)
    assert counts == [size for _, size in expected] == [4, 2, 1, 6]
    assert sums == pytest.approx([total for total, _ in expected], rel=1e-5)


def test_cross_entropy_of_real_speech_is_fairseqs(digits_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """And small, as a model's is whose references are read right; references of other utterances cost much more."""
    path = digits_dir / "checkpoint_best.pt"
    theirs, loaded = load_with_fairseq(path, monkeypatch), load_model(path)
    family, spec = loaded.source.family, loaded.source.spec
    utterances = read_utterances(digits_dir / "dev.tsv").utterances[:12]
    features = [family.features(spec, read_audio(one.audio, sample_rate_hz=16_000)) for one in utterances]
    targets = family.read_targets(spec, digits_dir, [one.reference for one in utterances])
    expected = [
        fairseq_cross_entropy(theirs, spec.vocabulary, *pair, smoothed=True)
        for pair in zip(features, targets, strict=True)
    ]
    sums, counts = loss(loaded, features, targets)
    assert counts == [size for _, size in expected]
    assert sums == pytest.approx([total for total, _ in expected], rel=1e-4, abs=1e-4)
    assert sum(sums) / sum(counts) < 0.5
    others, _ = loss(loaded, features, targets[1:] + targets[:1])
    assert sum(others) / sum(counts) > 3


@pytest.mark.parametrize("fixture", ["tiny_wav2vec_ctc", "tiny_hubert_ctc"])
def test_ctc_is_fairseqs(fixture: str, request: pytest.FixtureRequest) -> None:
    from fairseq.criterions.ctc import CtcCriterion, CtcCriterionConfig

    path = request.getfixturevalue(fixture)
    loaded = load_model(path)
    family, spec = loaded.source.family, loaded.source.spec
    theirs = fairseq_ctc_model(path)
    generator = torch.Generator().manual_seed(0)
    waves = [0.1 * torch.randn(length, generator=generator) for length in (6400, 9000, 5000)]
    targets = family.read_targets(spec, path.parent, ["TEA AT", "TOE", "TOTE A TEA"])
    options = CtcCriterionConfig(post_process="letter", sentence_avg=False)
    scorer = CtcCriterion(options, SimpleNamespace(target_dictionary=make_dictionary(spec.vocabulary)))
    expected = []
    for wave, target in zip(waves, targets, strict=True):
        net_input = {"source": wave[None], "padding_mask": torch.zeros(1, len(wave), dtype=torch.bool)}
        sample = {"net_input": net_input, "target": target[None], "ntokens": len(target), "id": torch.tensor([0])}
        with torch.no_grad():
            expected.append(float(scorer(theirs, sample)[0]))
    sums, counts = loss(loaded, waves, targets)
    assert counts == [7, 4, 11]
    assert sums == pytest.approx(expected, rel=1e-5)


def fairseq_ctc_model(path: Path) -> torch.nn.Module:
    """Fairseq's own, filled by torch. It says that it trains, and its parts do not: in evaluation the criterion counts errors."""
    checkpoint = read_checkpoint(path)
    settings = checkpoint.config["model"]
    model, _, _ = fixtures.fine_tuned(
        settings["_name"], settings["w2v_args"]["model"], fixtures.LETTERS, normalize=False
    )
    tensors = {name: tensor for name, tensor in checkpoint.tensors.items() if "label_embs" not in name}
    torch.nn.Module.load_state_dict(model, tensors)
    model.training = True
    return model


def ctc_by_enumeration(probs: torch.Tensor, target: list[int], blank: int) -> float:
    """-log of the sum over every path that collapses to the target."""
    total = 0.0
    for path in itertools.product(range(probs.shape[1]), repeat=len(probs)):
        if [unit for unit, _ in itertools.groupby(path) if unit != blank] == target:
            total += math.prod(float(probs[frame, unit]) for frame, unit in enumerate(path))
    return -math.log(total)


@pytest.mark.parametrize(("family", "blank", "config"), [("wav2vec_ctc", 0, {}), ("asr_vggtransformer_encoder", 3, 3)])
def test_ctc_sums_over_all_paths_with_the_familys_blank(family: str, blank: int, config: object) -> None:
    probs = torch.randn(5, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(1)).softmax(-1)
    targets = [[2], [1, 2], [2, 2, 1], []]
    sums, counts = criterion.negative_log_likelihood(
        get_family(family), SimpleNamespace(config={"blank": config}), [probs.log()] * 4, [torch.tensor(t, dtype=torch.long) for t in targets],
    )  # fmt: skip
    assert counts.tolist() == [1, 2, 3, 0]
    assert sums.tolist() == pytest.approx([ctc_by_enumeration(probs, target, blank) for target in targets], rel=1e-9)


def test_a_reference_that_does_not_fit_into_its_frames_is_left_out() -> None:
    """Two like units need a blank between: 4 frames hold 1 1 2 but not 1 1 2 2."""
    scores = torch.randn(4, 4, requires_grad=True)
    log_probs = scores.log_softmax(-1)
    targets = [torch.tensor([1, 1, 2]), torch.tensor([1, 1, 2, 2]), torch.tensor([], dtype=torch.long)]
    family, spec = get_family("wav2vec_ctc"), SimpleNamespace(config={})
    sums, counts = criterion.negative_log_likelihood(family, spec, [log_probs] * 3, targets)
    assert counts.tolist() == [3, 0, 0]
    assert criterion.left_out(counts, targets) == [1]
    assert sums[1] == 0 and sums[0] > 0 and sums[2] > 0
    sums.sum().backward()
    assert torch.isfinite(scores.grad).all()


def test_keywords_have_one_token() -> None:
    scores = torch.tensor([[[0.3, -1.0]], [[0.0, 4.0]]]).log_softmax(-1)
    family = get_family("kws_crnn")
    sums, counts = criterion.negative_log_likelihood(family, None, list(scores), [torch.tensor([0]), torch.tensor([0])])
    assert counts.tolist() == [1, 1]
    assert sums.tolist() == pytest.approx([math.log1p(math.exp(-1.3)), math.log1p(math.exp(4.0))], rel=1e-6)
