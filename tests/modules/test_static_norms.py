"""Norms and positions on static grids against the float modules, on what the codes of their input stand for."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from asrcompress.errors import AsrCompressError
from tests.fixtures.static import grid_of, require_integers, static_pair


def on_input_grid(model, x):
    grid = model.sites.grid(":input")
    return (x / grid.scale).round().clamp(grid.code_min, grid.code_max) * grid.scale


def norms():
    torch.manual_seed(0)
    batch_norm = nn.BatchNorm1d(12)
    batch_norm.running_mean.normal_()
    batch_norm.running_var.uniform_(0.01, 4)
    image_norm = nn.BatchNorm2d(12, affine=False)
    image_norm.running_var.uniform_(0.1, 2)
    found = {
        "layer": (nn.LayerNorm(12), (4, 7, 12)), "layer over two": (nn.LayerNorm((7, 12)), (4, 7, 12)),
        "layer without weights": (nn.LayerNorm(12, elementwise_affine=False), (4, 7, 12)),
        "layer, no bias": (nn.LayerNorm(12, bias=False), (4, 12)), "layer of one": (nn.LayerNorm(1), (4, 1)),
        "group": (nn.GroupNorm(3, 12), (4, 12, 7)),
        "group of one": (nn.GroupNorm(12, 12), (4, 12, 50)), "group, 2d": (nn.GroupNorm(1, 12), (4, 12, 7, 3)),
        "batch": (batch_norm, (4, 12, 7)),
        "batch without time": (batch_norm, (4, 12)), "batch, 2d": (image_norm, (4, 12, 7, 3)),
    }  # fmt: skip
    for module, _ in found.values():
        for parameter in module.parameters():
            parameter.data.normal_(0.5)
        module.requires_grad_(False).eval()
    return found


@pytest.mark.parametrize("name", list(norms()))
@pytest.mark.parametrize("scale", [1e-3, 1.0, 300.0])
def test_a_norm_is_within_two_codes_of_float64(name, scale):
    module, shape = norms()[name]
    x = scale * (torch.randn(shape) + 0.5)
    _, model = static_pair(module, lambda m: m(x))
    found, wanted = model(x), module.double()(on_input_grid(model, x.double()))
    out = grid_of(model, "out")
    slack = 0.5 * grid_of(model, "x").scale * float(wanted.abs().max() + 1) * 20 if "batch" in name else 0
    assert found.shape == wanted.shape
    assert (found - wanted).abs().max() <= 2 * out.scale + slack + float(wanted.abs().max()) * 1e-4
    require_integers(model, lambda m: m(x))
    if x.dim() > 2 and "over" not in name:
        assert model(x[:0]).shape == (0, *shape[1:])


@pytest.mark.parametrize("name", ["layer", "group", "batch"])
@pytest.mark.parametrize("value", [0.0, 3.0])
def test_constant_inputs_give_the_bias(name, value):
    module, shape = norms()[name]
    x = torch.randn(shape)
    _, model = static_pair(module, lambda m: (m(x), m(torch.full(shape, value))))
    constant = torch.full(shape, value)
    wanted = module(on_input_grid(model, constant))
    slack = 20 * grid_of(model, "x").scale if name == "batch" else 0
    assert (model(constant) - wanted).abs().max() <= 1.01 * grid_of(model, "out").scale + slack


@pytest.mark.parametrize("weight", [0.0, 1e-30, 1e-12])
@pytest.mark.parametrize("name", ["layer", "group", "batch"])
def test_a_bias_survives_weights_that_are_nearly_zero(name, weight):
    module, shape = norms()[name]
    module.weight.data.fill_(weight)
    module.bias.data.fill_(-1.5)
    x = torch.randn(shape)
    _, model = static_pair(module, lambda m: m(x))
    assert (model(x) + 1.5).abs().max() <= 1.01 * grid_of(model, "out").scale


def test_layer_norm_of_width_4096_and_group_norm_of_many_frames():
    torch.manual_seed(0)
    wide = torch.randn(2, 4096)
    wide[0, 5] = 500
    long = torch.randn(1, 4, 100_000)
    for module, x in ((nn.LayerNorm(4096), wide), (nn.GroupNorm(2, 4), long)):
        _, model = static_pair(module.requires_grad_(False), lambda m, x=x: m(x))
        wanted = module.double()(on_input_grid(model, x.double()))
        assert (model(x) - wanted).abs().max() <= 2 * grid_of(model, "out").scale + 1e-3


fairseq = pytest.mark.skipif(not __import__("importlib").util.find_spec("fairseq"), reason="fairseq is not installed")


@fairseq
def test_sinusoids_are_fairseqs_rounded_once():
    from fairseq.modules import SinusoidalPositionalEmbedding

    module = SinusoidalPositionalEmbedding(16, 1, init_size=40)
    tokens = torch.tensor([[5, 6, 7, 1, 1], [5, 4, 3, 2, 9]])
    _, model = static_pair(module, lambda m: m(tokens))
    assert (model(tokens) - module(tokens)).abs().max() <= 2**-15
    for length in (1, 5):
        state = {}
        assert (
            model(tokens[:, :length], incremental_state=state) - module(tokens[:, :length], incremental_state=state)
        ).abs().max() <= 2**-15
        step = torch.tensor([length - 1])
        assert torch.equal(
            model(tokens, incremental_state=state, timestep=step), model(tokens[:, :length], incremental_state=state)
        )
    require_integers(model, lambda m: m(tokens))
    with pytest.raises(AsrCompressError, match="longer than the model's 38 positions"):
        model(torch.full((1, 39), 5))


@fairseq
def test_learned_positions_are_fairseqs_within_half_a_code():
    from fairseq.modules import LearnedPositionalEmbedding

    torch.manual_seed(0)
    module = LearnedPositionalEmbedding(12, 16, 1).requires_grad_(False)
    tokens = torch.tensor([[5, 6, 7, 1, 1], [5, 4, 3, 2, 9]])
    float_model, model = static_pair(module, lambda m: m(tokens))
    assert (model(tokens) - float_model(tokens)).abs().max() <= 0.51 * grid_of(model, "out").scale
    assert (
        model(tokens, incremental_state={}) - float_model(tokens, incremental_state={})
    ).abs().max() <= 0.51 * grid_of(model, "out").scale
    assert model(tokens[:, :0]).shape == (2, 0, 16)
    require_integers(model, lambda m: m(tokens))
