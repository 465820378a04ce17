"""The decoder's convolutions of asr_vggtransformer against Fairseq's: whole sequences, step by step, reordered."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from asrcompress.models.fairseq_vgg import _causal_conv


@pytest.fixture(params=[1, 3, 4])
def pair(request: pytest.FixtureRequest) -> tuple[Any, Any]:
    """Fairseq's LinearizedConvolution and ours, with the same weights; kernel sizes odd and even."""
    from fairseq.modules import LinearizedConvolution

    torch.manual_seed(0)
    theirs = LinearizedConvolution(5, 7, request.param, padding=request.param - 1).requires_grad_(False)
    theirs.bias.normal_()
    ours = _causal_conv()(theirs).requires_grad_(False)
    ours.conv.weight.copy_(theirs.weight.permute(2, 1, 0))
    ours.conv.bias.copy_(theirs.bias)
    return theirs, ours


def test_whole_sequences(pair: tuple[Any, Any]) -> None:
    theirs, ours = pair
    x = torch.randn(11, 3, 5)
    torch.testing.assert_close(ours(x), theirs(x), rtol=1e-5, atol=1e-5)


def test_step_by_step_with_hypotheses_that_change_places(pair: tuple[Any, Any]) -> None:
    theirs, ours = pair
    states: tuple[dict[str, Any], dict[str, Any]] = ({}, {})
    order = torch.tensor([2, 0, 0])
    for step in range(6):
        x = torch.randn(3, 1, 5)
        found = [module(x, state) for module, state in zip((theirs, ours), states, strict=True)]
        torch.testing.assert_close(found[1], found[0], rtol=1e-5, atol=1e-5)
        if step == 3:
            for module, state in zip((theirs, ours), states, strict=True):
                module.reorder_incremental_state(state, order)


def test_steps_are_the_whole_sequence(pair: tuple[Any, Any]) -> None:
    _, ours = pair
    x, state = torch.randn(6, 2, 5), {}
    steps = [ours(frame[:, None], state) for frame in x]
    torch.testing.assert_close(torch.cat(steps, dim=1).transpose(0, 1), ours(x), rtol=1e-5, atol=1e-5)
