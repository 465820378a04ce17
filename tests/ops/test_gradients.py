"""Effects told from gradients against what happens: small changes to first order, the curvature by its definition."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from asrcompress.ops.gradients import Taylor, by_length, expand, weight_gradients
from asrcompress.ops.linearize import Linearized, keyword_gradients, per_clip
from asrcompress.ops.load import Source, build_model, open_source
from asrcompress.ops.probe import Probe, ProbeData, read_probe_data
from asrcompress.ops.units import Option, weight_units

SMALL = {"asr": 1e-4, "kws": 1e-3}  # of a weight's size


class Shifted:
    """A candidate that is the weight moved by a little in a fixed direction."""

    def __init__(self, weight: torch.Tensor, change: torch.Tensor) -> None:
        self.values = weight + change

    def dequantize(self) -> torch.Tensor:
        return self.values


def moved(source: Source, data: ProbeData, name: str, change: torch.Tensor) -> float:
    """The exact change of the loss."""
    model = build_model(source).module
    weight = model.get_parameter(name).detach()
    candidate = lambda unit, option: Shifted(weight, change.reshape(weight.shape))  # noqa: E731
    probe = Probe(source, weight_units(model), candidate, data)
    return probe.measure({name: Option(8)}, decode=False).loss - probe.baseline.loss


@pytest.fixture(scope="module")
def asr(samples_dir: Path) -> tuple[Source, ProbeData]:
    source = open_source(samples_dir / "asr" / "checkpoint_best.pt")
    return source, read_probe_data(source, samples_dir / "asr" / "dev.tsv", limit=24)


@pytest.fixture(scope="module")
def kws(samples_dir: Path) -> tuple[Source, ProbeData]:
    source = open_source(samples_dir / "kws" / "crnn_computer.pt")
    data = read_probe_data(source, samples_dir / "kws" / "manifest.tsv", keyword="computer", split="dev")
    return source, data


@pytest.mark.parametrize("which", ("asr", "kws"))
def test_a_small_change_moves_the_loss_as_expected(which, request):
    source, data = request.getfixturevalue(which)
    units = weight_units(build_model(source).module)
    names = [unit.name for unit in units if "ctc_proj" not in unit.name]
    find = weight_gradients if which == "asr" else keyword_gradients
    found = find(source, data, names)
    parameters = dict(build_model(source).module.named_parameters())
    generator = torch.Generator().manual_seed(3)
    for name in names[::5]:
        weight = parameters[name].detach()
        noise = torch.randn(weight.shape, generator=generator)
        if which == "asr":  # along the gradient, so that the change is not lost in float32's rounding
            noise = found.groups[name].sum(dim=0).reshape(weight.shape)
        change = noise / noise.norm() * weight.norm() * SMALL[which]
        (effect,) = found.effects(name, change.reshape(1, -1))
        assert moved(source, data, name, change) == pytest.approx(effect.loss, rel=0.15, abs=2e-7), name


def test_the_divergence_of_the_linearised_logit_is_that_of_the_model(kws):
    source, data = kws
    names = [unit.name for unit in weight_units(build_model(source).module)]
    found = keyword_gradients(source, data, names)
    weight = build_model(source).module.get_parameter("gru.weight_ih_l0").detach()
    change = torch.randn(weight.shape, generator=torch.Generator().manual_seed(1)) * weight.abs().mean() * 0.02
    candidate = lambda unit, option: Shifted(weight, change)  # noqa: E731
    probe = Probe(source, weight_units(build_model(source).module), candidate, data)
    measured = probe.measure({"gru.weight_ih_l0": Option(8)}, decode=False)
    (effect,) = found.effects("gru.weight_ih_l0", change.reshape(1, -1))
    assert measured.kl > 1e-7
    assert effect.kl == pytest.approx(measured.kl, rel=0.1)


def test_gradients_of_clips_are_those_of_each_clip_alone(kws):
    source, data = kws
    model = build_model(source).module
    names = [unit.name for unit in weight_units(model)]
    found = keyword_gradients(source, data, names)
    for clip in (0, 5):
        rows = source.family.log_probs(source.spec, model, [data.features[clip]], None)[0][0]
        gradients = torch.autograd.grad(rows[1] - rows[0], [model.get_parameter(name) for name in names])
        for name, gradient in zip(names, gradients, strict=True):
            assert torch.allclose(found.jacobians[name][clip], gradient.reshape(-1), rtol=1e-3, atol=1e-5), name
        assert float(found.logits[clip]) == pytest.approx(float(rows[1] - rows[0]), abs=1e-5)
    assert found.labels.tolist() == list(data.labels)


def test_per_clip_gradients_of_a_grouped_convolution_are_torchs():
    torch.manual_seed(0)
    convolution = torch.nn.Conv1d(4, 6, 3, groups=2, bias=False)
    x = torch.randn(5, 4, 11)
    out = convolution(x)
    gradient = torch.randn_like(out)
    patches = x.unfold(2, 3, 1).movedim(1, 2).reshape(5, 9, 2, 6)
    found = per_clip([(patches, gradient.movedim(1, 2))], rows=6)
    for clip in range(5):
        (expected,) = torch.autograd.grad((convolution(x[clip : clip + 1]) * gradient[clip]).sum(), convolution.weight)
        assert torch.allclose(found[clip], expected.reshape(-1), atol=1e-5)


def test_an_exact_shift_gives_the_exact_loss():
    logits, labels = torch.tensor([2.0, -1.0, 0.5]).double(), torch.tensor([True, False, False])
    found = Linearized({"w": torch.tensor([[1.0, 0.0], [0.0, 2.0], [0.5, 0.5]])}, logits, labels)
    (effect,) = found.effects("w", torch.tensor([[0.3, -0.4]]))
    shift = torch.tensor([0.3, -0.8, -0.05]).double()
    before = torch.nn.functional.binary_cross_entropy_with_logits(logits, labels.double())
    after = torch.nn.functional.binary_cross_entropy_with_logits(logits + shift, labels.double())
    assert effect.loss == pytest.approx(float(after - before), rel=1e-6)
    p, q = (torch.distributions.Bernoulli(logits=values) for values in (logits, logits + shift))
    assert effect.kl == pytest.approx(float(torch.distributions.kl_divergence(p, q).mean()), rel=1e-6)


def test_curvature_is_the_spread_of_the_groups_about_their_mean():
    tokens = torch.tensor([10.0, 30.0, 20.0])
    slopes = torch.tensor([[1.0, 3.0, 2.0], [1.0, -3.0, 0.0]])
    same, spread = expand(slopes, tokens)
    assert (same.loss, same.kl) == (pytest.approx(6 / 60), pytest.approx(0.0))
    mean = -2 / 60
    centred = [1 - 10 * mean, -3 - 30 * mean, 0 - 20 * mean]
    half = sum(value**2 for value in centred) / 60 * (3 / 2) / 2
    assert (spread.kl, spread.loss) == (pytest.approx(half), pytest.approx(mean + half))


def test_a_weight_that_the_loss_does_not_reach_costs_nothing(asr):
    source, data = asr
    name = "encoder.ctc_proj.weight"
    assert name in dict(build_model(source).module.named_parameters())  # the head that only training uses
    found = weight_gradients(source, data, [name])
    assert found.effects(name, torch.ones(1, found.groups[name].shape[1]))[0].loss == 0.0


def test_groups_sum_to_the_whole_gradient_whatever_the_batches(asr):
    source, data = asr
    name = "decoder.layers.0.fc1.weight"
    small, large = (weight_gradients(source, data, [name], batch_size=size) for size in (4, 24))
    assert isinstance(small, Taylor)
    assert (len(small.num_tokens), len(large.num_tokens)) == (6, 1)
    assert float(small.num_tokens.sum()) == float(large.num_tokens.sum())
    assert torch.allclose(small.groups[name].sum(dim=0), large.groups[name].sum(dim=0), rtol=1e-3, atol=1e-4)


def test_batches_hold_every_utterance_with_a_frame_once_short_ones_first():
    features = [torch.zeros(length, 3) for length in (5, 0, 9, 2, 7)]
    assert by_length(features, 2) == [[3, 0], [4, 2]]
