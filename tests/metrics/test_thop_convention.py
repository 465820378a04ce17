"""thop's counts: the keyword-spotting report's table to the digit, and nothing left behind."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from asrcompress.errors import AsrCompressError
from asrcompress.metrics.thop_convention import thop_macs
from asrcompress.models.crnn import CRNN

BATCH = torch.zeros(128, 40, 101)  # the report's input
# (channels, hidden) -> the report's figure, and what thop 0.1.1 says
TABLE = {
    (8, 64): (119_527_424, 119_324_672),
    (4, 32): (35_613_696, 35_512_320),
    (4, 16): (19_321_856, 19_220_480),
    (2, 12): (9_431_040, 9_380_352),
}


@pytest.mark.parametrize(("sizes", "published"), TABLE.items())
def test_the_reports_table_to_the_digit(sizes, published):
    model = CRNN(*sizes)
    assert thop_macs(model, (BATCH,), convention="thop-conv-bias") == published[0]
    assert thop_macs(model, (BATCH,)) == published[1]


def test_a_convolution_without_bias_counts_the_same_in_both_conventions():
    model = nn.Conv1d(3, 4, 5, bias=False)
    data = (torch.zeros(2, 3, 9),)
    assert thop_macs(model, data, convention="thop-conv-bias") == thop_macs(model, data) == 2 * 4 * 5 * 3 * 5


def test_the_model_and_stdout_are_left_alone(capsys):
    model = CRNN(2, 12).train()
    before = copy.deepcopy(model.state_dict())
    thop_macs(model, (BATCH[:1],))
    assert model.training
    assert list(model.state_dict()) == list(before)
    assert all(not m._forward_hooks and not hasattr(m, "total_ops") for m in model.modules())
    assert capsys.readouterr().out == ""


def test_errors_are_one_line():
    with pytest.raises(AsrCompressError, match="thop-conv-bias"):
        thop_macs(CRNN(2, 12), (BATCH[:1],), convention="flops")
    with pytest.raises(AsrCompressError, match="thop cannot count"):
        thop_macs(CRNN(2, 12), (torch.zeros(1, 3),))
