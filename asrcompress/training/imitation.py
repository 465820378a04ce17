"""What a student has still to learn from a teacher's layers: the distance of its attention maps and layer outputs.

Where a layer is narrower or wider than the one that it learns from, a linear map stands between them. It is trained with the
student, as in FitNets (Romero et al. 2015, arXiv 1412.6550), and is no part of what is stored.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from asrcompress.training.loss import attention_divergence, hidden_error, weigh_steps
from asrcompress.training.watch import Layers, Seen, pair_layers


class Imitation(nn.Module):
    """Pairs of layers, and the maps between their widths.

    Args:
        student: what a student's layers show of one utterance; what is in it is what is compared.
        teacher: what its teacher's show of the same.
        seed: of the maps as training begins.

    Raises:
        ValueError: the two cannot be compared; says why.
    """

    def __init__(self, student: Seen, teacher: Seen, seed: int) -> None:
        super().__init__()
        self.map_pairs, self.output_pairs = _pairs(student.maps, teacher.maps), _pairs(student.outputs, teacher.outputs)
        for stack, ours, theirs in self.map_pairs:
            _require_same(stack, student.maps[stack][ours].shape, teacher.maps[stack][theirs].shape)
        generator = torch.Generator().manual_seed(seed)
        bridges: list[nn.Module] = []
        for stack, ours, theirs in self.output_pairs:
            here, there = student.outputs[stack][ours].shape, teacher.outputs[stack][theirs].shape
            _require_same(stack, here[:1], there[:1])
            bridges.append(nn.Identity() if here[1] == there[1] else _bridge(here[1], there[1], generator))
        self.bridges = nn.ModuleList(bridges)

    def forward(self, student: Seen, teacher: Sequence[Seen], num_tokens: Sequence[int]) -> dict[str, Tensor]:
        """How far a batch is from its lessons, by name: `attention`, `hidden`, where they are compared.

        Each is the sum over utterances of tokens x the mean over layers and steps.

        Args:
            student: of a batch.
            teacher: of its utterances, each as long as it is.
            num_tokens: of each.
        """
        found: dict[str, Tensor] = {}
        with torch.autocast(student.tensors[0].device.type, enabled=False):
            maps = []
            for stack, ours, theirs in self.map_pairs:
                wanted, lengths = _stack([seen.maps[stack][theirs] for seen in teacher], student.tensors[0].device)
                weights = _cut(student.maps[stack][ours], wanted.shape[1:])
                maps.append(weigh_steps(attention_divergence(weights, wanted), lengths, num_tokens))
            if maps:
                found["attention"] = torch.stack(maps).mean()
            outputs = []
            for (stack, ours, theirs), bridge in zip(self.output_pairs, self.bridges, strict=True):
                wanted, lengths = _stack([seen.outputs[stack][theirs] for seen in teacher], student.tensors[0].device)
                values = bridge(_cut(student.outputs[stack][ours], wanted.shape[1:2]))
                outputs.append(weigh_steps(hidden_error(values, wanted), lengths, num_tokens))
            if outputs:
                found["hidden"] = torch.stack(outputs).mean()
        return found

    def describe(self) -> dict[str, list[list[object]]]:
        """What a sidecar records: stack, the student's layer, the teacher's; counted from 0."""
        pairs = {"attention": self.map_pairs, "hidden": self.output_pairs}
        return {name: [list(pair) for pair in found] for name, found in pairs.items() if found}


def _pairs(student: Layers, teacher: Layers) -> list[tuple[str, int, int]]:
    pairs = pair_layers(*({stack: len(layers) for stack, layers in kind.items()} for kind in (student, teacher)))
    return [(stack, ours, theirs) for stack, found in pairs.items() for ours, theirs in found]


def _require_same(stack: str, ours: Sequence[int], theirs: Sequence[int]) -> None:
    if tuple(ours) != tuple(theirs):
        here, there = (" x ".join(map(str, shape)) for shape in (ours, theirs))
        raise ValueError(f"{stack} layers have {here} steps in the one and {there} in the other")


def _bridge(ours: int, theirs: int, generator: torch.Generator) -> nn.Module:
    bridge = nn.Linear(ours, theirs, bias=False)
    nn.init.orthogonal_(bridge.weight, generator=generator)
    return bridge


def _stack(layers: Sequence[Tensor], device: torch.device) -> tuple[Tensor, list[int]]:
    """Utterances' layers in one, padded with zeros, and how many steps each has."""
    shape = [max(sizes) for sizes in zip(*(layer.shape for layer in layers), strict=True)]
    whole = layers[0].new_zeros((len(layers), *shape))
    for row, layer in zip(whole, layers, strict=True):
        row[: layer.shape[0], : layer.shape[1]] = layer
    return whole.to(device), [len(layer) for layer in layers]


def _cut(values: Tensor, shape: Sequence[int]) -> Tensor:
    """(batch, ...) in float32 without what lies beyond `shape`: frames that only fill up a batch.

    Raises:
        ValueError: there is less.
    """
    if any(size < least for size, least in zip(values.shape[1:], shape, strict=False)):
        raise ValueError(f"the one makes {tuple(values.shape[1:])} steps of what the other makes {tuple(shape)} of")
    for axis, size in enumerate(shape, start=1):
        values = values.narrow(axis, 0, size)
    return values.float()
