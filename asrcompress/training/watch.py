"""What passes between a model's layers while it runs: attention maps and layer outputs.

Layers are recognised by what they hold: `self_attn`, and `encoder_attn` in decoders (Fairseq's), or a recurrent network and an
attention with an `energy` (the keyword model's). A map is the mean over heads of the weights that were used. Models may have
different numbers of layers and heads, and layers other widths: `pair_layers` says which layer learns from which.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

ENCODER, DECODER, CROSS = "encoder", "decoder", "cross"

Layers = dict[str, list[Tensor]]


@dataclass
class Seen:
    """What a run showed of a batch, padding included, by stack and layer; stacks are encoder, decoder and, of maps, cross.

    maps: (batch, queries, keys) each; rows sum to 1 over what was there to be looked at. Pooling over time has one query.
    outputs: (batch, steps, width) each.
    """

    maps: Layers = field(default_factory=dict)
    outputs: Layers = field(default_factory=dict)

    def of(self, index: int, num_frames: int | None = None) -> Seen:
        """Of one utterance, without the batch; of its encoder, `num_frames` where more are padding."""
        maps = {
            stack: [
                layer[index, : num_frames if stack == ENCODER else None, : num_frames if stack != DECODER else None]
                for layer in layers
            ]
            for stack, layers in self.maps.items()
        }
        outputs = {
            stack: [layer[index, : num_frames if stack == ENCODER else None] for layer in layers]
            for stack, layers in self.outputs.items()
        }
        return Seen(maps, outputs)

    def apply(self, change: Callable[[Tensor], Tensor]) -> Seen:
        """With every tensor changed."""
        return Seen(*(
            {stack: [change(layer) for layer in layers] for stack, layers in kind.items()}
            for kind in (self.maps, self.outputs)
        ))  # fmt: skip

    @property
    def tensors(self) -> list[Tensor]:
        """All of them."""
        return [layer for kind in (self.maps, self.outputs) for layers in kind.values() for layer in layers]


@contextmanager
def watch(model: nn.Module, *, maps: bool, outputs: bool) -> Iterator[Seen]:
    """Write down, into what this gives, what passes in the one run of `model` while it is open. Differentiable.

    Args:
        model: float.
        maps: of attention; where they are watched, torch's fused attention, which shows none, is not used.
        outputs: of layers.

    Raises:
        RuntimeError: the model ran more than once, or not all of its layers did: nobody could tell whose layers these are.
    """
    seen, handles = Seen(), []
    expected: Counter[int] = Counter()

    def place(kind: Layers, stack: str) -> list[Tensor]:
        layers = kind.setdefault(stack, [])
        expected[id(layers)] += 1
        return layers

    try:
        for name, module in model.named_modules():
            stack = DECODER if name.split(".")[0] == DECODER else ENCODER
            for kind, where in (("self_attn", stack), ("encoder_attn", CROSS)):
                attention = getattr(module, kind, None)
                if maps and isinstance(attention, nn.Module):
                    handles += _watch_attention(attention, place(seen.maps, where))
            if maps and isinstance(energy := getattr(module, "energy", None), nn.Module):
                handles.append(_on_result(energy, _pooling_map, place(seen.maps, stack)))
            if outputs and isinstance(getattr(module, "self_attn", None), nn.Module):
                handles.append(_on_result(module, _of_layer, place(seen.outputs, stack)))
            if outputs and isinstance(module, nn.RNNBase):
                handles.append(_on_result(module, _of_recurrence, place(seen.outputs, stack)))
        yield seen
        for layers in (*seen.maps.values(), *seen.outputs.values()):
            if len(layers) != expected[id(layers)]:
                raise RuntimeError(
                    f"{expected[id(layers)]} layers were watched in one run, and were run {len(layers)} times"
                )
    finally:
        for handle in handles:
            handle.remove()


def pair_layers(student: Mapping[str, int], teacher: Mapping[str, int]) -> dict[str, list[tuple[int, int]]]:
    """Which layer of a student learns from which of a teacher, by stack; evenly spread, the last from the last.

    Layer i of S learns from layer round((i + 1) T / S) - 1 of T, halves rounded up.

    Args:
        student: layers, by stack.
        teacher: likewise.

    Raises:
        ValueError: a stack is missing in one of them.
    """
    if student.keys() != teacher.keys():
        ours, theirs = (" and ".join(sorted(stacks)) or "no" for stacks in (student, teacher))
        raise ValueError(f"the one has {ours} layers and the other {theirs} layers")
    return {
        stack: [(i, max((2 * (i + 1) * teacher[stack] + count) // (2 * count) - 1, 0)) for i in range(count)]
        for stack, count in student.items()
    }


def _on_result(module: nn.Module, read: Callable[[Any], Tensor], found: list[Tensor]) -> Any:
    return module.register_forward_hook(lambda _, arguments, result: found.append(read(result)))  # type: ignore[func-returns-value]


def _watch_attention(attention: nn.Module, found: list[Tensor]) -> list[Any]:
    """Handles. ESPnet's attention keeps its weights, Fairseq's hands them over when it is told to."""
    if hasattr(attention, "linear_q"):

        def keep(module: Any, arguments: Any, result: Any) -> None:
            found.append(module.attn.mean(dim=1))
            module.attn = None  # it would hold on to the graph of this run

        return [attention.register_forward_hook(keep)]

    def ask(module: Any, arguments: Any, named: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
        return arguments, named | {"need_weights": True, "need_head_weights": False}

    return [
        attention.register_forward_pre_hook(ask, with_kwargs=True),
        _on_result(attention, lambda result: result[1], found),
    ]


def _of_layer(result: Any) -> Tensor:
    """(steps, batch, width), alone or first -> (batch, steps, width)."""
    output: Tensor = result if isinstance(result, Tensor) else result[0]
    return output.transpose(0, 1)


def _of_recurrence(result: Any) -> Tensor:
    """What all layers together give: torch shows no layer below the last."""
    output: Tensor = result[0]
    return output


def _pooling_map(energies: Tensor) -> Tensor:
    """(batch, steps, 1) before the softmax over time -> (batch, 1, steps)."""
    return torch.softmax(energies, dim=-2).transpose(-2, -1)
