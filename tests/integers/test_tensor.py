"""What an activation is: views, copies, in-place functions, and what happens outside of a model."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from asrcompress.errors import AsrCompressError
from asrcompress.integers.grid import Grid
from asrcompress.integers.sites import Sites
from asrcompress.integers.tensor import GridTensor, as_floats, codes_on, map_tensors, observed, point
from tests.fixtures.static import activation, floats, inside

GRID, OUT = Grid(0.5, 0, 16), Grid(0.25, 0, 16)


def x_of(*shape, **grids):
    codes = torch.arange(torch.Size(shape).numel()).reshape(shape) - 5
    return activation(codes, GRID, inside(**grids))


VIEWS = [
    lambda x: x.transpose(0, 1), lambda x: x.reshape(-1, 2), lambda x: x[1:, ..., None], lambda x: x.permute(2, 0, 1).contiguous(),
    lambda x: x.flip(0), lambda x: x.expand(2, *x.shape), lambda x: x.unsqueeze(1).squeeze(1), lambda x: x[x.shape[0] - 1],
    lambda x: x.index_select(1, torch.tensor([2, 0])), lambda x: x.flatten(1).unfold(1, 3, 2), lambda x: x.mT, lambda x: torch.roll(x, 1, 0),
    lambda x: x[torch.tensor([True, False])], lambda x: x.gather(1, torch.zeros(2, 1, 2, dtype=torch.int64)), lambda x: x.repeat(1, 2, 1),
]  # fmt: skip


@pytest.mark.parametrize("view", VIEWS)
def test_views_of_codes_are_views_of_numbers(view):
    x = x_of(2, 3, 2)
    found = view(x)
    assert isinstance(found, GridTensor)
    assert found.grid == GRID
    assert torch.equal(floats(found), view(floats(x)))


PARTS = [
    lambda x: x.chunk(2, 1), lambda x: x.split(3, 1), lambda x: torch.split(x, [1, 4, 1], 1), lambda x: x.unbind(0), list,
]  # fmt: skip


@pytest.mark.parametrize("parts", PARTS)
def test_parts_are_activations(parts):
    x = x_of(2, 6)
    for found, wanted in zip(parts(x), parts(floats(x)), strict=True):
        assert isinstance(found, GridTensor)
        assert torch.equal(floats(found), wanted)


SHAPED = [
    lambda m, x: m.expand_as(x), lambda m, x: m.view_as(x[:, :1]), lambda m, x: m.type_as(x), lambda m, x: m.to(x),
]  # fmt: skip


@pytest.mark.parametrize("shaped", SHAPED)
def test_a_plain_mask_shaped_like_an_activation_stays_plain(shaped):
    x, mask = x_of(3, 4), torch.tensor([[True], [False], [True]])
    found = shaped(mask, x)
    assert not isinstance(found, GridTensor)
    assert found.flatten()[-1] == 1


def test_copies_keep_the_grid_and_own_their_codes():
    x = x_of(2, 2)
    for made in (x.clone(), copy.deepcopy(x), x * 1.0):
        made.relu_()
        assert made.grid == GRID
        assert floats(x).min() < 0
    assert "GridTensor((2, 2), Grid(scale=0.5" in repr(x)


IN_PLACE = {
    "relu_": lambda x: x.relu_(), "torch.relu_": torch.relu_, "F.relu": lambda x: nn.functional.relu(x, inplace=True),
    "ReLU": nn.ReLU(inplace=True), "clamp_": lambda x: x.clamp_(-1, 1), "Hardtanh": nn.Hardtanh(-1, 1, inplace=True),
    "masked_fill_": lambda x: x.masked_fill_(torch.tensor([[True], [False]]), 0.5),
    "setitem": lambda x: x.__setitem__(torch.tensor([True, False]), 0),
}  # fmt: skip


@pytest.mark.parametrize("function", IN_PLACE.values(), ids=list(IN_PLACE))
def test_functions_in_place_on_one_grid_change_views_too(function):
    x = x_of(2, 4)
    plain, row = floats(x), x[0]
    function(x)
    function(plain)
    assert torch.equal(floats(x), plain)
    assert torch.equal(floats(row), plain[0])


def test_augmented_assignment_changes_whatever_name_the_tensor_has():
    x, y = x_of(2, 4, add=OUT, sub=OUT, mul=OUT), activation([1, -1, 2, 0], Grid(2.0, 0, 8))
    residual, plain = x, floats(x)
    x += y
    plain += floats(y)
    assert residual is x
    assert residual.grid == OUT
    assert torch.equal(floats(residual), plain)
    residual.sub_(y).mul_(2)
    residual *= -0.5
    assert torch.equal(floats(x), -floats(x_of(2, 4)))


def test_narrow_codes_can_become_wide_in_place():
    x = activation([100, -100], Grid(1.0, 0, 8), inside(add=Grid(0.01, 0, 16)))
    kept = x
    x += 20
    assert floats(kept).tolist() == [120, -80]
    assert kept.payload.dtype == torch.int16


@pytest.mark.parametrize("change", [lambda x: x.add_(1), lambda x: x.mul_(-2), lambda x: x.div_(2), *IN_PLACE.values()])
def test_observing_changes_in_place_what_running_does(change):
    seen = []
    sites = Sites(record=lambda site, values: seen.append(site))
    x, plain = observed(floats(x_of(2, 4)), sites), floats(x_of(2, 4))
    change(x)
    change(plain)
    assert torch.equal(x.payload, plain)


def test_going_on_another_grid_and_leaving():
    x = activation([[-3, 3], [127, 0]], Grid(1.0, 3, 8))
    assert floats(x.on(OUT)).tolist() == [[-6, 0], [124, -3]]
    assert x.on(x.grid) is x
    assert x.to_floats().dtype == torch.float32
    assert codes_on(torch.tensor([True, False]), OUT).tolist() == [4, 0]
    assert codes_on(torch.tensor([2**40]), OUT).tolist() == [32767]


def test_a_site_without_a_grid_is_named():
    with pytest.raises(AsrCompressError, match="m:add: has no grid, since calibration never ran it"):
        x_of(2) + 1
    with pytest.raises(AsrCompressError, match="m:q: has no grid"):
        point(x_of(2), "q")


@pytest.mark.parametrize(
    "function",
    [lambda x: x**2, lambda x: torch.einsum("ij,kj->ik", x, x), lambda x: x.exp(), lambda x: x.item(), lambda x: 1 / x, lambda x: x > 0,
     lambda x: x.max(), torch.log_softmax, lambda x: x.numpy(), lambda x: x.fill_(1)],
)  # fmt: skip
def test_what_has_no_integer_version_names_itself_and_its_module(function):
    with pytest.raises(AsrCompressError, match="^module 'm': .* has no integer version"):
        function(x_of(2, 2)) if function is not torch.log_softmax else function(x_of(2, 2), -1)


def test_outside_of_the_model_everything_is_floats():
    x = activation([[1, -2], [3, 4]], GRID)
    functions = [
        lambda y: y**2, lambda y: torch.log_softmax(y, -1), lambda y: y + 1, lambda y: 1 - y, lambda y: y @ y, lambda y: y.mean(),
        lambda y: torch.einsum("ij,kj->ik", y, y), lambda y: torch.cat([y, y]), lambda y: y.sigmoid(), lambda y: y * torch.ones(2),
    ]  # fmt: skip
    for function in functions:
        found = function(x)
        assert not isinstance(found, GridTensor)
        assert torch.equal(found, function(x.to_floats()))
    assert x.tolist() == [[0.5, -1.0], [1.5, 2.0]]
    assert bool((x == x.to_floats()).all())


def test_nested_arguments_without_activations_stay_the_same_objects():
    state = {"a": [torch.ones(1)], "b": (1, None)}
    assert as_floats(state) is state
    changed = map_tensors({"a": [x_of(2)], "b": (1, None)}, lambda x: "t")
    assert changed == {"a": ["t"], "b": (1, None)}


def test_empty_and_zero_dimensional_tensors():
    x = activation(torch.zeros(0, 3), GRID, inside(add=OUT, cat=OUT, table=OUT, mul=OUT, sum=OUT))
    for found in (x + x, x.tanh(), torch.cat([x, x]), x * 2, x * x, x.relu()):
        assert found.shape == (0, 3)
    assert x.sum(0).payload.tolist() == [0, 0, 0]
    scalar = activation(torch.tensor(3), GRID, inside(add=OUT))
    assert floats(scalar + 1).item() == 2.5
