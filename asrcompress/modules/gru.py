"""GRU with packed weights: an explicit loop over time.

Gates as torch's: r, z, n stacked along the rows of weight_ih and weight_hh. With int8 activations
the input product of all steps is one integer product, the hidden product one a step; both operands
are int8, per token. Projections (`proj_size`) do not exist for GRU.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from asrcompress.grids import QuantizedWeight
from asrcompress.modules.weight import IntegerWeight, as_bias, check_activations


class IntegerGRU(nn.Module):
    """Replaces torch.nn.GRU: same arguments of forward, same results up to rounding."""

    def __init__(self, gru: nn.GRU, weights: dict[str, QuantizedWeight], *, activations: str = "none") -> None:
        super().__init__()
        self.activations = check_activations(activations)
        self.hidden_size, self.num_layers = gru.hidden_size, gru.num_layers
        self.bidirectional, self.batch_first = gru.bidirectional, gru.batch_first
        self.packed = nn.ModuleDict({name: IntegerWeight(weight) for name, weight in weights.items()})
        self.biases = nn.ParameterDict(
            {name: as_bias(bias) for name, bias in gru.named_parameters() if name.startswith("bias_")}
        )

    def forward(self, x: Tensor, hidden: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """x (time, batch, in), or (batch, time, in) with batch_first; hidden (layers * directions,
        batch, hidden_size), zeros if None. Returns the outputs of the last layer and the last hidden states."""
        if not isinstance(x, Tensor) or x.dim() != 3:
            raise ValueError(
                "a batch of sequences, (time, batch, in), is needed; packed and unbatched ones are not supported"
            )
        x = x.transpose(0, 1) if self.batch_first else x
        directions = ("", "_reverse") if self.bidirectional else ("",)
        last: list[Tensor] = []
        for layer in range(self.num_layers):
            outputs = []
            for suffix in directions:
                start = x.new_zeros(x.shape[1], self.hidden_size) if hidden is None else hidden[len(last)]
                steps = x.flip(0) if suffix else x
                states, final = self._run(f"l{layer}{suffix}", steps, start)
                outputs.append(states.flip(0) if suffix else states)
                last.append(final)
            x = torch.cat(outputs, dim=-1)
        return (x.transpose(0, 1) if self.batch_first else x), torch.stack(last)

    def _run(self, name: str, x: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
        """One layer in one direction: x (time, batch, in), state (batch, hidden)."""
        gates_in = self._product("ih", name, x)
        states = []
        for step in gates_in:
            reset_x, update_x, new_x = step.chunk(3, dim=-1)
            reset_h, update_h, new_h = self._product("hh", name, state).chunk(3, dim=-1)
            reset, update = torch.sigmoid(reset_x + reset_h), torch.sigmoid(update_x + update_h)
            candidate = torch.tanh(new_x + reset * new_h)
            state = (1 - update) * candidate + update * state
            states.append(state)
        return torch.stack(states), state

    def _product(self, kind: str, name: str, x: Tensor) -> Tensor:
        weight = self.packed[f"weight_{kind}_{name}"]
        assert isinstance(weight, IntegerWeight)  # noqa: S101 (for the type checker)
        out = weight.product(x, self.activations)
        bias = f"bias_{kind}_{name}"
        return out + self.biases[bias] if bias in self.biases else out
