"""Level integer-only on every family: reached, proven by the audit, close to float, the same whether decoded at once or step by step.

`pytest -rP tests/models/test_integer_only.py` prints each family's signal-to-quantization-noise ratio.
"""

from __future__ import annotations

import copy
from pathlib import Path

import pytest
import torch

from asrcompress.integers.sites import Sites
from asrcompress.metrics.noise import sqnr_db
from asrcompress.models import FAMILIES
from asrcompress.modules.swap import find_weights, make_static, swap
from asrcompress.modules.weight import FloatWeight
from asrcompress.ops.audit import audit_artifact
from asrcompress.ops.calibrate import read_calibration
from asrcompress.ops.load import LoadedModel, load_model
from asrcompress.ops.quantize import Calibrate, QuantizeConfig, quantize
from tests.models.test_family_contract import TINY

# Every family's tiny checkpoint, and variants that run other modules.
CHECKPOINTS = [*sorted(TINY.values()), "tiny_s2t_conformer_rope", "tiny_s2t_conformer_abs"]
LOWEST_DB = 20.0  # 8-bit products of random weights; a wrong grid or a missing term falls below 10


@pytest.fixture(params=CHECKPOINTS)
def checkpoint(request: pytest.FixtureRequest) -> Path:
    return request.getfixturevalue(request.param)


@pytest.fixture
def speech(checkpoint: Path, tiny_speech: Path, samples_dir: Path) -> Path:
    return samples_dir / "kws" / "manifest.tsv" if "kws" in str(checkpoint) else tiny_speech


def test_the_tiny_checkpoints_are_of_all_families() -> None:
    assert TINY.keys() == FAMILIES.keys()


def inputs_of(loaded: LoadedModel, speech: Path) -> tuple[torch.Tensor, ...]:
    """Features of one utterance, and what else the model's forward takes."""
    family, spec = loaded.source.family, loaded.source.spec
    features = read_calibration(family, spec, speech, 5).features[-1]
    example, _ = family.example_inputs(
        spec, 1.0, 5 if len(family.example_inputs(spec, 1.0, None, 1)[0]) > 2 else None, 1
    )
    inputs = [features.unsqueeze(0), *example[1:]]
    if len(inputs) > 1:
        inputs[1] = torch.tensor([len(features)])
    return tuple(inputs)


def logits(module: torch.nn.Module, inputs: tuple[torch.Tensor, ...]) -> torch.Tensor:
    with torch.inference_mode():
        out = module(*inputs)
    out = out[0] if isinstance(out, tuple) else out
    return out["encoder_out"] if isinstance(out, dict) else out


def test_the_swapped_float_path_is_the_float_model(checkpoint: Path, speech: Path) -> None:
    """Attention, convolutions, norms and positions of ours, weights in float: Fairseq's logits up to the order of additions."""
    loaded = load_model(checkpoint)
    inputs = inputs_of(loaded, speech)
    expected = logits(loaded.module, inputs)
    twin = copy.deepcopy(loaded.module)
    weights = {site.name: FloatWeight(twin.get_parameter(site.name)) for site in find_weights(twin) if not site.tied_to}
    passed: list[str] = []
    make_static(swap(twin, weights), Sites(record=lambda site, values: passed.append(site)))
    torch.testing.assert_close(logits(twin, inputs), expected, rtol=1e-4, atol=1e-4)
    assert len(passed) > len(weights)  # it was the twins that ran


def integer_share(honesty: dict) -> float:
    """The share of MACs whose operands are 8-bit integers, from the audit's coverage."""
    macs = {row["activation_bits"]: 0 for row in honesty["coverage"]}
    for row in honesty["coverage"]:
        macs[row["activation_bits"]] += row["macs"]
    return macs.get(8, 0) / sum(macs.values())


def test_computed_is_reached(checkpoint: Path, tmp_path: Path) -> None:
    quantize(checkpoint, tmp_path / "q.safetensors", QuantizeConfig(level="computed"))
    packed = load_model(tmp_path / "q.safetensors")
    honesty = audit_artifact(packed.source, packed)
    assert (honesty["reached"], integer_share(honesty)) == ("computed", 1.0), honesty["violations"]
    print(f"{name_of(packed, checkpoint)}: computed, {integer_share(honesty):.2%} of MACs on integers")


def name_of(loaded: LoadedModel, checkpoint: Path) -> str:
    return f"{loaded.source.spec.family} ({checkpoint.parent.name})"


def test_integer_only_is_reached_and_close_to_float(checkpoint: Path, speech: Path, tmp_path: Path) -> None:
    quantize(checkpoint, tmp_path / "q.safetensors", QuantizeConfig(level="integer-only"), calibrate=Calibrate(speech))
    whole, packed = load_model(checkpoint), load_model(tmp_path / "q.safetensors")
    honesty = audit_artifact(packed.source, packed)
    assert (honesty["claimed"], honesty["reached"]) == ("integer-only", "integer-only"), honesty["violations"]
    assert honesty["float_ops"] == []
    assert integer_share(honesty) == 1.0
    inputs = inputs_of(whole, speech)
    noise = sqnr_db(logits(whole.module, inputs), logits(packed.module, inputs))
    print(
        f"{name_of(whole, checkpoint)}: integer-only, {integer_share(honesty):.2%} of MACs on integers, "
        f"{len(honesty['float_ops'])} float operations left, {noise:.1f} dB"
    )
    assert noise > LOWEST_DB
