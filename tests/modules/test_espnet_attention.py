"""ESPnet's attention: the integer twins against Fairseq's modules, at each level, with padding."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn

from asrcompress.errors import AsrCompressError
from asrcompress.integers.observers import Observer
from asrcompress.integers.sites import Sites, is_operand
from asrcompress.metrics.cost import count_macs
from asrcompress.modules.swap import find_weights, make_static, swap
from asrcompress.modules.weight import FloatWeight

DIM, HEADS, LENGTH = 32, 4, 21
KINDS = ["abs", "rel_pos", "rope"]


class Layer(nn.Module):
    """Self-attention called as ConformerEncoderLayer calls it, with its positions."""

    def __init__(self, kind: str) -> None:
        super().__init__()
        from fairseq import modules

        self.positions = modules.RelPositionalEncoding(50, DIM) if kind == "rel_pos" else None
        if kind == "rope":
            self.attention = modules.RotaryPositionMultiHeadedAttention(DIM, HEADS, dropout=0.1, precision=None)
        elif kind == "rel_pos":
            self.attention = modules.RelPositionMultiHeadedAttention(DIM, HEADS, dropout=0.1)
        else:
            self.attention = modules.ESPNETMultiHeadedAttention(DIM, HEADS, dropout=0.1)

    def forward(self, x: torch.Tensor, mask: torch.Tensor | None) -> torch.Tensor:
        positions = {} if self.positions is None else {"pos_emb": self.positions(x)}
        out: torch.Tensor = self.attention(
            query=x, key=x, value=x, key_padding_mask=mask, need_weights=False, **positions
        )[0]
        return out


@pytest.fixture(params=KINDS)
def layer(request: pytest.FixtureRequest) -> nn.Module:
    torch.manual_seed(0)
    model = Layer(request.param).requires_grad_(False).eval()
    for name, parameter in model.named_parameters():
        if "bias" in name:
            parameter.normal_(0, 0.5)
    return model


def inputs(padded: bool = True) -> tuple[torch.Tensor, torch.Tensor]:
    x = torch.randn(LENGTH, 2, DIM, generator=torch.Generator().manual_seed(1))
    lengths = torch.tensor([LENGTH, LENGTH - 6 if padded else LENGTH])
    return x, torch.arange(LENGTH)[None] >= lengths[:, None]


def kept(out: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """Frames that are not padding: (frames, dim)."""
    return out.transpose(0, 1)[~mask]


@pytest.mark.parametrize("padded", [False, True])
def test_the_twin_is_fairseqs_module_with_packed_weights(
    layer: nn.Module, make_pair: Callable[..., Any], padded: bool
) -> None:
    theirs, ours = make_pair(layer)
    x, mask = inputs(padded)
    torch.testing.assert_close(kept(ours(x, mask), mask), kept(theirs(x, mask), mask), rtol=1e-5, atol=1e-5)


def test_without_a_mask(layer: nn.Module, make_pair: Callable[..., Any]) -> None:
    theirs, ours = make_pair(layer)
    x, _ = inputs()
    torch.testing.assert_close(ours(x, None), theirs(x, None), rtol=1e-5, atol=1e-5)


def test_all_weights_are_packed(layer: nn.Module) -> None:
    packed = {site.name.removeprefix("attention.") for site in find_weights(layer)}
    assert packed == {name for name, p in layer.attention.named_parameters() if name.endswith(".weight")}


def test_level_computed_multiplies_integers_alone(layer: nn.Module, make_pair: Callable[..., Any]) -> None:
    theirs, ours = make_pair(layer, activations="int8")
    x, mask = inputs()
    error = kept(ours(x, mask), mask) - kept(theirs(x, mask), mask)
    assert error.abs().max() < 0.03 * theirs(x, mask).abs().max()
    counts = [count_macs(model, lambda model=model: model(x, mask)) for model in (theirs, ours)]
    assert counts[0].total == counts[1].total > 0
    dtypes = {dtype for found in counts[1].operand_dtypes.values() for dtype in found}
    assert dtypes <= {"int8", "int32"}


def test_positions_matter(make_pair: Callable[..., Any]) -> None:
    """The same frames in another order give other answers, unless positions are in the input."""
    x, _ = inputs()
    for kind in KINDS:
        torch.manual_seed(0)
        _, ours = make_pair(Layer(kind).requires_grad_(False).eval())
        turned = ours(x.flip(0), None).flip(0)
        assert torch.allclose(turned, ours(x, None), atol=1e-5) == (kind == "abs")


def static(layer: nn.Module, packed: nn.Module, *batches: tuple[torch.Tensor, torch.Tensor]) -> nn.Module:
    """`packed` at level integer-only, calibrated with the float `layer` on these."""
    observers: dict[str, Observer] = {}
    watched = copy.deepcopy(layer)
    swap(watched, {site.name: FloatWeight(watched.get_parameter(site.name)) for site in find_weights(watched)})
    make_static(watched, Sites(record=lambda site, x: observers.setdefault(site, Observer()).add(x)))
    for batch in batches:
        watched(*batch)
    grids = {
        site: seen.grid(
            8 if is_operand(site) else 16, symmetric=not site.rpartition(":")[2].startswith("in"), method="minmax"
        )
        for site, seen in observers.items()
    }
    return make_static(packed, Sites(grids=grids))


def test_level_integer_only_has_no_floats_and_stays_close(layer: nn.Module, make_pair: Callable[..., Any]) -> None:
    from torch.utils._python_dispatch import TorchDispatchMode

    theirs, ours = make_pair(layer)
    x, mask = inputs()
    expected = kept(theirs(x, mask), mask)
    model = static(layer, ours, (x, mask))
    floats: list[str] = []

    class Watch(TorchDispatchMode):
        def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            out = func(*args, **(kwargs or {}))
            if isinstance(out, torch.Tensor) and out.is_floating_point():
                floats.append(str(func))
            return out

    with Watch():
        found = model(x, mask)
    assert set(floats) <= {"asrcompress.leave_integers.default"}
    assert (kept(found, mask) - expected).abs().max() < 0.05 * expected.abs().max()


def test_an_input_longer_than_the_tables_is_refused(make_pair: Callable[..., Any]) -> None:
    torch.manual_seed(0)
    layer = Layer("rope").requires_grad_(False).eval()
    _, ours = make_pair(layer)
    model = static(layer, ours, inputs())
    with pytest.raises(AsrCompressError, match="give shorter audio"):
        model(torch.randn(4097, 1, DIM), None)
