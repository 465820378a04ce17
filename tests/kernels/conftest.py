"""Kernels are tested where there are any; elsewhere the reason is said."""

from __future__ import annotations

import pytest
import torch

from asrcompress.grids import Granularity
from asrcompress.integers.matmul import int_matmul, quantize_tokens
from asrcompress.kernels import library, state
from asrcompress.modules.weight import IntegerWeight
from asrcompress.ops.load import build_model, open_source
from asrcompress.quantizers import get_quantizer
from tests.kernels.transformer import write_artifact


@pytest.fixture(autouse=True)
def kernels(request):
    if request.module.__name__.endswith("test_build_kernels"):
        return  # what is done without kernels is tested there, above all
    if library() is None:
        pytest.skip(f"integers are multiplied by {state()}")


@pytest.fixture
def without_kernels(monkeypatch):
    """A function that runs another as where there are no kernels."""

    def run(work):
        from asrcompress.modules import attend, conv, fused, fused_decoder, weight

        with monkeypatch.context() as patch:
            for module in (attend, conv, fused, fused_decoder, weight):
                patch.setattr(module, "usable", lambda *tensors: False)
            return work()

    return run


def packed(rows, columns, *, granularity="per_channel", method="rtn", bits=8, seed=0):
    """A random weight as an artifact holds it."""
    torch.manual_seed(seed)
    weight = torch.randn(rows, columns) * torch.rand(rows, 1)
    quantize = get_quantizer(method)
    found = quantize(
        weight, num_bits=bits, granularity=Granularity.parse(granularity), name="w", statistics=None, pruned=None
    )
    return IntegerWeight(found)


def product_in_words(x, weight, bias=None):
    """x W^T + b, as docs and docstrings say it: integers by torch, then scales in their order."""
    codes, token_scale = quantize_tokens(x)
    groups = weight.scale.shape[1]
    total = 0.0
    for group, columns in enumerate(torch.arange(weight.codes.shape[1]).chunk(groups)):
        sums = int_matmul(codes[:, columns], weight.codes[:, columns])
        if weight.zero_point is not None:
            sums = sums - codes[:, columns].sum(-1, keepdim=True, dtype=torch.int32) * weight.zero_point[:, group].int()
        total = total + sums.float() * weight.scale[:, group]
    total = total * token_scale
    return total if bias is None else total + bias


@pytest.fixture(scope="module", params=[True, False], ids=["pre-norm", "post-norm"])
def artifact(request, tmp_path_factory):
    folder = tmp_path_factory.mktemp("fused")
    return write_artifact(folder, encoder_normalize_before=request.param, decoder_normalize_before=request.param)


@pytest.fixture
def model(artifact):
    return build_model(open_source(artifact), fused=True).module
