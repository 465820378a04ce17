"""A batch of utterances of several lengths gives each the log-probabilities it has alone: in float, observed and on integers."""

from __future__ import annotations

import copy
from contextlib import nullcontext
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from asrcompress.integers.grid import Grid
from asrcompress.integers.sites import Sites
from asrcompress.models import padding
from asrcompress.modules.swap import find_weights, make_static, swap
from asrcompress.modules.weight import FloatWeight
from asrcompress.ops.load import LoadedModel, load_model
from asrcompress.speech.audio import read_audio
from asrcompress.speech.datasets import read_utterances
from tests.fixtures.static import Sole, activation, floats, static_model
from tests.models.test_family_contract import TINY

OTHERS = ["tiny_s2t_conformer_rope", "tiny_s2t_conformer_abs", "tiny_s2t_conformer_fairseq"]
HEAR_PADDING = ["tiny_s2t", "tiny_s2t_conformer", *OTHERS, "tiny_vgg", "tiny_vgg_encoder"]  # without our help
SECONDS = (1.0, 0.46, 0.71, 0.3)
TOLERANCE = 1e-5  # log-probabilities of random weights go down to -20


@pytest.fixture(params=[*sorted(TINY.values()), *OTHERS])
def loaded(request: pytest.FixtureRequest) -> LoadedModel:
    return load_model(request.getfixturevalue(request.param))


def log_probs(loaded: LoadedModel, module: nn.Module, *, together: bool) -> list[Tensor]:
    """Of noise of several lengths, and of references of several lengths."""
    family, spec = loaded.source.family, loaded.source.spec
    generator = torch.Generator().manual_seed(0)
    audio = [0.1 * torch.randn(int(16_000 * seconds), generator=generator).numpy() for seconds in SECONDS]
    features = [family.features(spec, samples) for samples in audio]
    targets = [torch.tensor([*range(4, 4 + count), 2]) for count in (3, 6, 0, 4)]
    with torch.no_grad():
        if together:
            return family.log_probs(spec, module, features, targets)
        return [family.log_probs(spec, module, [features[i]], [targets[i]])[0] for i in range(len(features))]


def require_equal(found: list[Tensor], expected: list[Tensor]) -> None:
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, other, rtol=TOLERANCE, atol=TOLERANCE)


def test_float(loaded: LoadedModel) -> None:
    alone = log_probs(loaded, loaded.module, together=False)
    require_equal(log_probs(loaded, loaded.module, together=True), alone)
    require_equal(log_probs(loaded, loaded.module, together=False), alone)  # nothing is left behind


@pytest.mark.parametrize("fixture", HEAR_PADDING)
def test_without_it_padding_is_heard(
    fixture: str, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> None:
    loaded = load_model(request.getfixturevalue(fixture))
    alone = log_probs(loaded, loaded.module, together=False)
    monkeypatch.setattr(padding, "hidden", lambda readers: nullcontext())
    with pytest.raises(AssertionError):
        require_equal(log_probs(loaded, loaded.module, together=True), alone)


def test_observed(loaded: LoadedModel) -> None:
    """Twins of all modules, weights in float, every site recorded."""
    twin = copy.deepcopy(loaded.module)
    weights = {site.name: FloatWeight(twin.get_parameter(site.name)) for site in find_weights(twin) if not site.tied_to}
    passed: list[str] = []
    make_static(swap(twin, weights), Sites(record=lambda site, values: passed.append(site)))
    together = log_probs(loaded, twin, together=True)
    require_equal(together, log_probs(loaded, twin, together=False))
    assert passed
    for one, other in zip(together, log_probs(loaded, loaded.module, together=False), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-4)


def test_on_integers(loaded: LoadedModel) -> None:
    """To the bit: no sum of codes depends on what stands beside it."""
    _, module = static_model(loaded.module, lambda module: log_probs(loaded, module, together=False))
    for one, other in zip(
        log_probs(loaded, module, together=True), log_probs(loaded, module, together=False), strict=True
    ):
        torch.testing.assert_close(one, other, rtol=0, atol=0)


def test_what_is_hidden_is_zero_on_any_grid() -> None:
    """Codes of a grid with a zero point stand for zero at the zero point."""
    heard = Sole(lambda x: x)
    codes = activation(torch.arange(6).reshape(2, 1, 3), Grid(0.5, 4, 8))
    with padding.hidden([(heard, torch.tensor([3, 1]), 2)]):
        assert floats(heard(codes)).tolist() == [[[-2.0, -1.5, -1.0]], [[-0.5, 0.0, 0.0]]]
        assert heard(torch.ones(2, 1, 3)).tolist() == [[[1, 1, 1]], [[1, 0, 0]]]
    assert heard(torch.ones(2, 1, 3)).sum() == 6


def test_real_speech(digits_dir: Path) -> None:
    loaded = load_model(digits_dir / "checkpoint_best.pt")
    family, spec = loaded.source.family, loaded.source.spec
    utterances = read_utterances(digits_dir / "dev.tsv").utterances[:16]
    features = [family.features(spec, read_audio(one.audio, sample_rate_hz=16_000)) for one in utterances]
    targets = family.read_targets(spec, digits_dir, [one.reference for one in utterances])
    with torch.no_grad():
        together = family.log_probs(spec, loaded.module, features, targets)
        alone = [family.log_probs(spec, loaded.module, [x], [y])[0] for x, y in zip(features, targets, strict=True)]
    require_equal(together, alone)
