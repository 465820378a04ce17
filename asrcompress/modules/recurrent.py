"""GRU and LSTM with packed weights: an explicit loop over time.

Gates as torch's: r, z, n (GRU) or i, f, g, o (LSTM) stacked along the rows of weight_ih and weight_hh. With int8
activations the input product of all steps is one integer product, the hidden product one a step; both operands are
int8, per token. On static grids the states are 16-bit integers, sigmoid and tanh are tables. Projections
(`proj_size`) of an LSTM are not here.
"""

from __future__ import annotations

from math import tanh
from typing import Any

import torch
from torch import Tensor, nn

from asrcompress.integers.grid import Grid
from asrcompress.integers.lookup import SIGMOID_GRID, look_up, sigmoid
from asrcompress.integers.products import FixedWeight, weight_product
from asrcompress.integers.rescale import regrid, rescale, shift_right, to_codes
from asrcompress.integers.sites import Sites
from asrcompress.integers.tensor import (
    Activation,
    GridTensor,
    as_float,
    codes_on,
    grid_tensor,
    observed,
    point,
    refuse_floats,
    same_grid,
)
from asrcompress.modules.weight import FloatWeight, GridOf, IntegerWeight, as_bias, check_activations

UNIT_GRID = Grid(2.0**-15, 0, 16)  # hidden states lie between -1 and 1
OPERAND_GRID = Grid(1 / 127, 0, 8)  # as which a hidden state is multiplied
States = tuple[Tensor, ...]


class IntegerRecurrent(nn.Module):
    """What GRU and LSTM share: layers, directions, products. Replaces torch's module: same arguments, same results."""

    num_states = 1

    def __init__(self, module: Any, weights: dict[str, FloatWeight], *, activations: str = "none") -> None:
        super().__init__()
        self.activations = check_activations(activations)
        self.hidden_size, self.num_layers = module.hidden_size, module.num_layers
        self.bidirectional, self.batch_first = module.bidirectional, module.batch_first
        self.packed = nn.ModuleDict(weights)
        self.biases = nn.ParameterDict(
            {name: as_bias(bias) for name, bias in module.named_parameters() if name.startswith("bias_")}
        )
        self.fixed: dict[str, FixedWeight] = {}
        self.grids: dict[str, Grid] = {}

    def fix(self, grid_of: GridOf) -> None:
        """Make the constants: both products of a layer give their sums on the layer's grid of gates."""
        for layer in self._layer_names():
            for kind in ("in", "gates", "cell"):
                grid = grid_of(f"{kind}_{layer}")
                if grid is not None:
                    self.grids[f"{kind}_{layer}"] = grid
            for kind, operand in (("ih", self.grids.get(f"in_{layer}")), ("hh", OPERAND_GRID)):
                weight, bias = self.packed[f"weight_{kind}_{layer}"], self._bias(kind, layer)
                if isinstance(weight, IntegerWeight):
                    fixed = weight.constants(bias, operand, self.grids.get(f"gates_{layer}"))
                    if fixed is not None:
                        self.fixed[f"{kind}_{layer}"] = fixed

    def forward(self, x: Tensor, hidden: Any = None) -> tuple[Tensor, Any]:
        """x (time, batch, in), or (batch, time, in) with batch_first; hidden (layers * directions, batch, hidden_size), a
        pair of them for an LSTM, zeros if None. Returns the outputs of the last layer and the last states."""
        if not isinstance(x, Tensor) or x.dim() != 3:
            raise ValueError(
                "a batch of sequences, (time, batch, in), is needed; packed and unbatched ones are not supported"
            )
        x = x.transpose(0, 1) if self.batch_first else x
        given: States | None = None if hidden is None else (hidden if isinstance(hidden, tuple) else (hidden,))
        last: list[States] = []
        for layer in range(self.num_layers):
            outputs = []
            for suffix in ("", "_reverse") if self.bidirectional else ("",):
                start = None if given is None else tuple(state[len(last)] for state in given)
                states, final = self._run(f"l{layer}{suffix}", x.flip(0) if suffix else x, start)
                outputs.append(states.flip(0) if suffix else states)
                last.append(final)
            x = same_grid(torch.cat, outputs, -1) if len(outputs) > 1 else outputs[0]
        stacked = tuple(same_grid(torch.stack, states, 0) for states in zip(*last, strict=True))
        return (x.transpose(0, 1) if self.batch_first else x), stacked if self.num_states > 1 else stacked[0]

    def _layer_names(self) -> list[str]:
        return [name.removeprefix("weight_ih_") for name in self.packed if name.startswith("weight_ih_")]

    def _bias(self, kind: str, layer: str) -> Tensor | None:
        name = f"bias_{kind}_{layer}"
        return self.biases.get(name)

    def _run(self, layer: str, x: Tensor, start: States | None) -> tuple[Tensor, States]:
        """One layer in one direction: x (time, batch, in), states (batch, hidden)."""
        x = point(x, f"in_{layer}")
        if isinstance(x, GridTensor):
            return self._run_static(layer, x, start)
        watch = x.sites if isinstance(x, Activation) else None
        gates_in = self._product("ih", layer, as_float(x))
        zeros = gates_in.new_zeros(gates_in.shape[1], self.hidden_size)
        states: States = (zeros,) * self.num_states if start is None else tuple(as_float(state) for state in start)
        outputs, seen = [], [gates_in]
        cells = []
        for step in gates_in:
            gates_hidden = self._product("hh", layer, states[0])
            states = self.cell(step, gates_hidden, states)
            outputs.append(states[0])
            seen += [gates_hidden, step + gates_hidden] if watch else []
            cells.append(states[-1])
        out = torch.stack(outputs)
        if watch is None:
            return out, states
        point(observed(torch.cat([values.flatten() for values in seen]), watch), f"gates_{layer}")
        if self.num_states > 1:
            point(observed(torch.stack(cells), watch), f"cell_{layer}")
        return observed(out, watch), tuple(observed(state, watch) for state in states)

    def _run_static(self, layer: str, x: GridTensor, start: States | None) -> tuple[Tensor, States]:
        sites, grid = x.sites, self._grid(x.sites, "gates", layer)
        cell_grid = self._grid(sites, "cell", layer) if self.num_states > 1 else UNIT_GRID
        codes_in, codes_hidden = self._codes("ih", layer), self._codes("hh", layer)
        gates_in = weight_product(x.payload.reshape(-1, x.shape[-1]), codes_in, self.fixed[f"ih_{layer}"])
        gates_in = gates_in.reshape(*x.shape[:2], codes_in.shape[0])
        grids = (UNIT_GRID, cell_grid)[: self.num_states]
        zeros = torch.zeros(x.shape[1], self.hidden_size, dtype=torch.int16, device=gates_in.device)
        states: States = (zeros,) * self.num_states
        if start is not None:
            states = tuple(codes_on(refuse_floats(state, sites), own) for state, own in zip(start, grids, strict=True))
        outputs = []
        for step in gates_in:
            operand = regrid(states[0], UNIT_GRID, OPERAND_GRID)
            gates_hidden = weight_product(operand, codes_hidden, self.fixed[f"hh_{layer}"])
            states = self.static_cell(step.to(torch.int64), gates_hidden.to(torch.int64), states, grid, cell_grid)
            outputs.append(states[0])
        wrapped = tuple(grid_tensor(state, own, sites) for state, own in zip(states, grids, strict=True))
        return grid_tensor(torch.stack(outputs), UNIT_GRID, sites), wrapped

    def _grid(self, sites: Sites, kind: str, layer: str) -> Grid:
        return self.grids.get(f"{kind}_{layer}") or sites.grid(f"{sites.module_name}:{kind}_{layer}")

    def _codes(self, kind: str, layer: str) -> Tensor:
        weight = self.packed[f"weight_{kind}_{layer}"]
        assert isinstance(weight, IntegerWeight)  # noqa: S101 (for the type checker)
        return weight.codes

    def _product(self, kind: str, layer: str, x: Tensor) -> Tensor:
        weight, bias = self.packed[f"weight_{kind}_{layer}"], self._bias(kind, layer)
        assert isinstance(weight, FloatWeight)  # noqa: S101 (for the type checker)
        out = weight.product(x, self.activations)
        return out if bias is None else out + bias

    def cell(self, gates_in: Tensor, gates_hidden: Tensor, states: States) -> States:
        """One step in float: gates (batch, gates * hidden), states (batch, hidden)."""
        raise AssertionError("each kind has its own cell")

    def static_cell(
        self, gates_in: Tensor, gates_hidden: Tensor, states: States, grid: Grid, cell_grid: Grid
    ) -> States:
        """The same step on int64 codes of `grid`; states are codes of UNIT_GRID and `cell_grid`."""
        raise AssertionError("each kind has its own cell")


def _gate(codes: Tensor, grid: Grid) -> Tensor:
    """sigmoid of a sum of codes, int64 of 15 fraction bits."""
    return look_up(codes.clamp(grid.code_min, grid.code_max), grid, SIGMOID_GRID, sigmoid).to(torch.int64)


def _tanh(codes: Tensor, grid: Grid) -> Tensor:
    return look_up(codes.clamp(grid.code_min, grid.code_max), grid, UNIT_GRID, tanh).to(torch.int64)


class IntegerGRU(IntegerRecurrent):
    """Replaces torch.nn.GRU."""

    def cell(self, gates_in: Tensor, gates_hidden: Tensor, states: States) -> States:
        """h' = (1 - z) n + z h."""
        (state,) = states
        reset_x, update_x, new_x = gates_in.chunk(3, dim=-1)
        reset_h, update_h, new_h = gates_hidden.chunk(3, dim=-1)
        reset, update = torch.sigmoid(reset_x + reset_h), torch.sigmoid(update_x + update_h)
        candidate = torch.tanh(new_x + reset * new_h)
        return ((1 - update) * candidate + update * state,)

    def static_cell(
        self, gates_in: Tensor, gates_hidden: Tensor, states: States, grid: Grid, cell_grid: Grid
    ) -> States:
        """h' = n + z (h - n), all of 15 fraction bits."""
        reset_x, update_x, new_x = gates_in.chunk(3, dim=-1)
        reset_h, update_h, new_h = gates_hidden.chunk(3, dim=-1)
        reset, update = _gate(reset_x + reset_h, grid), _gate(update_x + update_h, grid)
        candidate = _tanh(new_x + shift_right(reset * new_h, 15), grid)
        state = states[0].to(torch.int64)
        return (to_codes(candidate + shift_right(update * (state - candidate), 15), UNIT_GRID),)


class IntegerLSTM(IntegerRecurrent):
    """Replaces torch.nn.LSTM without projections."""

    num_states = 2

    def cell(self, gates_in: Tensor, gates_hidden: Tensor, states: States) -> States:
        """c' = f c + i g, h' = o tanh(c')."""
        enter, forget, new, leave = (gates_in + gates_hidden).chunk(4, dim=-1)
        cell = torch.sigmoid(forget) * states[1] + torch.sigmoid(enter) * torch.tanh(new)
        return torch.sigmoid(leave) * torch.tanh(cell), cell

    def static_cell(
        self, gates_in: Tensor, gates_hidden: Tensor, states: States, grid: Grid, cell_grid: Grid
    ) -> States:
        """The cell state is on its own grid."""
        enter, forget, new, leave = (gates_in + gates_hidden).chunk(4, dim=-1)
        kept = shift_right(_gate(forget, grid) * states[1].to(torch.int64), 15)
        added = rescale(_gate(enter, grid) * _tanh(new, grid), 2.0**-30 / cell_grid.scale, Grid(cell_grid.scale, 0, 16))
        cell = to_codes(kept + added, cell_grid)
        hidden = shift_right(_gate(leave, grid) * _tanh(cell.to(torch.int64), cell_grid), 15)
        return to_codes(hidden, UNIT_GRID), cell
