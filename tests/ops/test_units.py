"""Rows and columns of a table: what can be compressed in a model, under which names, and what can be done to it."""

from __future__ import annotations

from pathlib import Path

import pytest
from torch import nn

from asrcompress.modules.swap import find_weights
from asrcompress.ops.load import build_model, open_source
from asrcompress.ops.units import Option, Unit, activation_units, block_of, group_units, weight_units

KINDS = {
    "encoder.subsample.conv_layers.0.weight": "convolution",
    "encoder.transformer_layers.0.self_attn.q_proj.weight": "attention",
    "encoder.transformer_layers.1.fc1.weight": "feed-forward",
    "encoder.transformer_layers.1.fc2.weight": "feed-forward",
    "decoder.embed_tokens.weight": "embedding",
    "encoder.ctc_proj.weight": "projection",
    "decoder.layers.0.encoder_attn.v_proj.weight": "attention",
    "conv.0.weight": "convolution",
    "gru.weight_hh_l1": "GRU",
    "classifier.weight": "projection",
}


class Nest(nn.Module):
    """Lists in lists, and names that go deep without any."""

    def __init__(self) -> None:
        super().__init__()
        inner = nn.Module()
        inner.steps = nn.ModuleList([nn.Linear(2, 2)])
        self.layers = nn.ModuleList([inner, nn.LayerNorm(2)])
        self.front = nn.Module()
        self.front.extractor = nn.Sequential(nn.Linear(2, 2), nn.LayerNorm(2))
        self.out = nn.Linear(2, 2)


def unit(shape: tuple[int, ...] = (), target: str = "weight") -> Unit:
    return Unit("u", "k", "b", target, shape)


def test_options_are_named_as_in_the_table():
    assert [str(Option(4)), str(Option(2, (1, 4))), str(Option(1, (2, 8)))] == ["int4", "int2+1:4", "int1+2:8"]


@pytest.mark.parametrize(
    ("given", "option", "is_allowed"),
    [
        (unit((3, 8)), Option(2), True),
        (unit((3, 8)), Option(2, (1, 4)), True),
        (unit((3, 6)), Option(2, (1, 4)), False),  # six inputs are one group and a half
        (unit((4, 6)), Option(2, (1, 4)), False),  # though its elements are six groups
        (unit((3, 6)), Option(2, (1, 2)), True),
        (unit((5, 2, 3, 2)), Option(8, (2, 4)), True),  # a convolution's columns: 2 x 3 x 2
        (unit((5, 1, 3, 3)), Option(8, (2, 4)), False),
        (unit((5, 1, 3, 3)), Option(1), True),
        (unit(target="activations"), Option(2), True),
        (unit(target="activations"), Option(1), False),  # no grid has one bit
        (unit(target="activations"), Option(8, (2, 4)), False),
    ],
)
def test_what_a_unit_allows(given: Unit, option: Option, is_allowed: bool):
    assert given.allows(option) is is_allowed


def test_elements_are_counted_and_activations_have_none():
    assert (unit((5, 2, 3, 2)).num_params, unit((7,)).num_params, unit(target="activations").num_params) == (60, 7, 0)


@pytest.mark.parametrize("fixture", ["tiny_s2t", "tiny_kws", "tiny_vgg"])
def test_every_weight_that_can_be_packed_is_a_unit_once_under_its_first_name(
    fixture: str, request: pytest.FixtureRequest
):
    model = build_model(open_source(request.getfixturevalue(fixture))).module
    units = weight_units(model)
    assert [each.name for each in units] == [site.name for site in find_weights(model) if not site.tied_to]
    parameters = dict(model.named_parameters())
    assert all(each.shape == tuple(parameters[each.name].shape) for each in units)
    assert len({id(parameters[each.name]) for each in units}) == len(units)
    assert {each.target for each in units} == {"weight"}
    for each in units:
        assert each.kind == KINDS.get(each.name, each.kind), each.name
        assert each.name.startswith(f"{each.block}."), each
    tied = [site.name for site in find_weights(model) if site.tied_to]
    if fixture == "tiny_s2t":
        assert tied and not set(tied) & {each.name for each in units}
        assert KINDS.keys() & {each.name for each in units} >= {name for name in KINDS if name.count(".") > 2}


def test_a_block_is_the_outermost_member_of_a_list_or_two_names():
    model = Nest()
    assert block_of("layers.0.steps.0", model) == "layers.0"
    assert block_of("layers.1", model) == "layers.1"
    assert block_of("front.extractor.0", model) == "front.extractor"
    assert block_of("out", model) == "out"


def test_activations_are_gathered_by_module_and_kind():
    model = nn.Module()
    model.layers = nn.ModuleList([nn.Module()])
    model.layers[0].attn, model.layers[0].norm, model.layers[0].fc = nn.Module(), nn.LayerNorm(2), nn.Linear(2, 2)
    sites = [
        "layers.0.norm:out", "layers.0.attn:q", "layers.0.attn:k", "layers.0.attn:scores", "layers.0.attn:softmax", "layers.0.attn:v",
        "layers.0.attn:p", "layers.0.attn:q1", "layers.0.attn:softmax1", "layers.0.fc:in", "layers.0.fc:out", "input:0",
    ]  # fmt: skip
    found = {each.name: each for each in activation_units(sites, model, ["layers.0.norm"])}
    assert {name: (each.kind, each.sites) for name, each in found.items()} == {
        "layers.0.norm:layer norm": ("layer norm", ("layers.0.norm:out",)),
        "layers.0.attn:attention products": (
            "attention products",
            ("layers.0.attn:q", "layers.0.attn:k", "layers.0.attn:v", "layers.0.attn:p", "layers.0.attn:q1"),
        ),
        "layers.0.attn:softmax": ("softmax", ("layers.0.attn:softmax", "layers.0.attn:softmax1")),
    }
    assert {(each.target, each.block, each.shape) for each in found.values()} == {("activations", "layers.0", ())}


def test_groups_hold_every_unit_once_in_the_order_of_first_meeting(samples_dir: Path):
    units = weight_units(build_model(open_source(samples_dir / "kws" / "crnn_computer.pt")).module)
    for by in ("kind", "block"):
        groups = group_units(units, by)
        assert [getattr(each, by) for members in groups.values() for each in members] == [
            name for name, members in groups.items() for _ in members
        ]
        assert sorted(each.name for members in groups.values() for each in members) == sorted(u.name for u in units)
        first = [next(i for i, each in enumerate(units) if getattr(each, by) == name) for name in groups]
        assert first == sorted(first)
    assert list(group_units(units, "kind")) == ["convolution", "GRU", "attention", "projection"]
