"""Grids to JSON and back."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from asrcompress.errors import AsrCompressError
from asrcompress.integers.grid import Grid
from asrcompress.integers.grid_tree import from_tree, to_tree

names = st.lists(st.sampled_from(["encoder", "layers", "0", "1", "fc1", "self_attn"]), max_size=4).map(".".join)
kinds = st.sampled_from(["in", "out", "q", "add", "add1", "in_l0", "gates_l0", "input", "softmax"])
grids = st.builds(
    Grid,
    scale=st.floats(1e-9, 1e6, allow_nan=False),
    zero_point=st.integers(-2, 1),
    num_bits=st.integers(2, 16),
)


@given(st.dictionaries(st.tuples(names, kinds).map(":".join), grids, max_size=12))
def test_every_grid_comes_back(found: dict[str, Grid]) -> None:
    assert from_tree(json.loads(json.dumps(to_tree(found)))) == found


def test_what_goes_without_saying_is_not_said() -> None:
    found = {
        "a.fc:in": Grid(0.5, 0, 8),
        "a.fc:out": Grid(0.25, 0, 16),
        ":input": Grid(2.0, 0, 8),
        "a.fc:in1": Grid(0.5, 3, 8),
    }
    assert to_tree(found) == {
        "a": {"fc": {":in": 0.5, ":out": 0.25, ":in1": [0.5, 3, 8]}},
        ":input": [2.0, 0, 8],
    }


@pytest.mark.parametrize(
    "leaf",
    [
        0,
        -1.0,
        "0.5",
        None,
        True,
        [0.5],
        [0.5, 0],
        [0.5, 0, 17],
        [0.5, 0, 1],
        [0.5, 0.0, 8],
        [0.5, 200, 8],
        [1e999, 0, 8],
    ],
)
def test_what_is_no_grid_is_refused(leaf: object) -> None:
    with pytest.raises(AsrCompressError, match="is not a grid"):
        from_tree({"fc": {":in": leaf}})


def test_a_tree_without_end_is_refused() -> None:
    tree: dict = {":in": 1.0}
    for _ in range(100):
        tree = {"a": tree}
    with pytest.raises(ValueError, match="without end"):
        from_tree(tree)
