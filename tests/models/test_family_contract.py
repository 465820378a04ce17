"""What every family in the table promises. A new family adds its line to FAMILIES and a tiny checkpoint here."""

from __future__ import annotations

import json
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from asrcompress.metrics.cost import count_macs
from asrcompress.models import FAMILIES, ModelSpec, criterion, get_family
from asrcompress.models.ctc import to_text
from asrcompress.modules.swap import find_weights
from asrcompress.ops.load import load_model, open_source
from asrcompress.ops.quantize import QuantizeConfig, quantize

# family -> fixture with a small random checkpoint
TINY = {
    "s2t_transformer": "tiny_s2t",
    "s2t_conformer": "tiny_s2t_conformer",
    "asr_vggtransformer": "tiny_vgg",
    "asr_vggtransformer_encoder": "tiny_vgg_encoder",
    "kws_crnn": "tiny_kws",
    "wav2vec_ctc": "tiny_wav2vec_ctc",
    "hubert_ctc": "tiny_hubert_ctc",
}
BIASES = (
    "pos_bias_u",
    "pos_bias_v",
)  # one number per head and column, added to queries: no matrix is multiplied by them
NAMES = {
    "asr": ("transcriber", "read_targets", "log_probs", "CRITERION"),
    "keyword": ("scores", "log_probs", "CRITERION"),
}
LETTERS, PIECES = "TEA AT TOE", "go left lefts"  # texts that the tiny vocabularies can write
NOT_IN_THE_LOSS = "encoder.ctc_proj."  # a head for training alone


@pytest.fixture(params=sorted(FAMILIES))
def family_name(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture
def checkpoint(family_name: str, request: pytest.FixtureRequest) -> Path:
    assert family_name in TINY, (
        f"tests/models/test_family_contract.py: name a tiny checkpoint for {family_name} in TINY"
    )
    return request.getfixturevalue(TINY[family_name])


def audio(family, seconds: float) -> np.ndarray:
    return 0.1 * np.random.default_rng(0).standard_normal(int(seconds * family.SAMPLE_RATE_HZ)).astype(np.float32)


def answer(loaded, seconds: float = 1.0) -> list:
    """What the family makes of noise of this length."""
    family, spec = loaded.source.family, loaded.source.spec
    batch = [family.features(spec, audio(family, seconds))]
    if family.TASK == "asr":
        return family.transcriber(spec, loaded.module, beam=2, max_len_b=8)(batch)
    return family.scores(loaded.module, batch)


def test_it_recognises_its_own_checkpoint_and_no_other(
    family_name: str, checkpoint: Path, request: pytest.FixtureRequest
) -> None:
    family = get_family(family_name)
    assert set(NAMES[family.TASK]) <= set(vars(family))
    assert open_source(checkpoint).spec.family == family_name
    for other, fixture in TINY.items():
        assert family.recognises(open_source(request.getfixturevalue(fixture)).checkpoint) == (other == family_name)


def test_the_spec_survives_json_and_builds_a_fresh_model_in_eval_mode(family_name: str, checkpoint: Path) -> None:
    source = open_source(checkpoint)
    spec = ModelSpec(**json.loads(json.dumps(asdict(source.spec), allow_nan=False)))
    first, second = source.family.build(spec), source.family.build(spec)
    assert not first.training
    assert set(first.state_dict()) - set(source.tensors) <= {
        name for name in first.state_dict() if source.family.is_computed(name)
    }
    pointers = {parameter.data_ptr() for parameter in first.parameters()}
    assert not pointers & {parameter.data_ptr() for parameter in second.parameters()}


def test_every_weight_of_a_matrix_product_can_be_packed(family_name: str, checkpoint: Path) -> None:
    module = load_model(checkpoint).module
    packable = {site.name for site in find_weights(module)}
    matrices = {
        name
        for name, parameter in module.named_parameters(remove_duplicate=False)
        if parameter.dim() > 1 and not name.endswith(BIASES)
    }
    assert matrices == packable


@pytest.mark.parametrize("activations", ["none", "int8"])
def test_the_artifact_runs_without_the_checkpoint_and_does_the_same_macs(
    family_name: str, checkpoint: Path, tmp_path: Path, activations: str
) -> None:
    quantize(checkpoint, tmp_path / "q.safetensors", QuantizeConfig(activations=activations))
    whole, packed = load_model(checkpoint), load_model(tmp_path / "q.safetensors")
    assert packed.source.spec == ModelSpec(**json.loads(json.dumps(asdict(whole.source.spec))))
    family = get_family(family_name)
    inputs, record = family.example_inputs(whole.source.spec, 1.0, None, 1)
    assert record["duration_s"] == 1.0
    with torch.inference_mode():
        counts = [count_macs(loaded.module, lambda module=loaded.module: module(*inputs)) for loaded in (whole, packed)]
    assert counts[0].total == counts[1].total > 0
    dtypes = {dtype for found in counts[1].operand_dtypes.values() for dtype in found}
    assert (dtypes <= {"int8", "int32", "uint8"}) == (activations == "int8")


def losses(loaded) -> tuple[list[Tensor], Tensor, Tensor]:
    """Log-probabilities of two utterances, and the loss of a reference: (log_probs, sums, counts)."""
    family, spec = loaded.source.family, loaded.source.spec
    features = [family.features(spec, audio(family, seconds)) for seconds in (1.0, 0.7)]
    found = family.log_probs(spec, loaded.module, features, references(loaded))
    return found, *criterion.negative_log_likelihood(family, spec, found, references(loaded))


def text_for(spec: ModelSpec) -> str:
    return LETTERS if spec.config["text_units"] == "letters" else PIECES


def references(loaded) -> list[Tensor]:
    """Two targets for the loss."""
    source = loaded.source
    if source.family.TASK == "keyword":
        return [torch.tensor([0]), torch.tensor([1])]
    text = text_for(source.spec)
    return source.family.read_targets(source.spec, source.path.parent, [text, text.split()[0]])


def test_it_says_the_loss_of_references(family_name: str, checkpoint: Path) -> None:
    """A distribution a step, over the vocabulary, and gradients for all weights that matter to it."""
    loaded = load_model(checkpoint)
    found, sums, counts = losses(loaded)
    num_units = 2 if loaded.source.family.TASK == "keyword" else len(loaded.source.spec.vocabulary) + 4
    targets = references(loaded)
    for rows, target in zip(found, targets, strict=True):
        assert rows.shape[1] == num_units and rows.dtype == torch.float32
        assert loaded.source.family.CRITERION == "ctc" or len(rows) == len(target)
        torch.testing.assert_close(rows.exp().sum(dim=1), torch.ones(len(rows)), rtol=0, atol=1e-5)
    assert counts.tolist() == [len(target) for target in targets]
    assert sums.shape == (2,) and (sums > 0).all()
    sums.sum().backward()
    without = {name for name, weight in loaded.module.named_parameters() if weight.grad is None}
    assert all(name.startswith(NOT_IN_THE_LOSS) for name in without)
    assert all(weight.grad is None or torch.isfinite(weight.grad).all() for weight in loaded.module.parameters())


def test_a_step_down_the_gradient_lowers_the_loss(family_name: str, checkpoint: Path) -> None:
    loaded = load_model(checkpoint)
    before = losses(loaded)[1].sum()
    before.backward()
    with torch.no_grad():
        slope = sum(float((w.grad**2).sum()) for w in loaded.module.parameters() if w.grad is not None)
        for weight in loaded.module.parameters():
            if weight.grad is not None:
                weight -= 1e-3 * float(before) / slope * weight.grad
        fall = float(before - losses(loaded)[1].sum())
    assert fall == pytest.approx(1e-3 * float(before), rel=0.2)  # as steep as the gradient says


def test_references_read_back_as_their_text(family_name: str, checkpoint: Path) -> None:
    loaded = load_model(checkpoint)
    if loaded.source.family.TASK == "keyword":
        assert [target.tolist() for target in references(loaded)] == [[0], [1]]
        return
    spec = loaded.source.spec
    assert to_text(references(loaded)[0].tolist(), spec.vocabulary, spec.config["text_units"]) == text_for(spec)


@pytest.mark.parametrize("activations", ["none", "int8"])
def test_a_packed_model_says_its_loss_too(family_name: str, checkpoint: Path, tmp_path: Path, activations: str) -> None:
    quantize(checkpoint, tmp_path / "q.safetensors", QuantizeConfig(activations=activations))
    whole, packed = load_model(checkpoint), load_model(tmp_path / "q.safetensors")
    packed = replace(packed, source=replace(packed.source, path=checkpoint))  # artifacts hold no SentencePiece model
    with torch.no_grad():
        expected, found = losses(whole), losses(packed)
    assert found[2].tolist() == expected[2].tolist()
    assert found[1].tolist() == pytest.approx(expected[1].tolist(), rel=0.2)


def test_it_answers_and_answers_the_same_twice(family_name: str, checkpoint: Path) -> None:
    loaded = load_model(checkpoint)
    assert answer(loaded) == answer(load_model(checkpoint))
    assert len(answer(loaded)) == 1
    assert isinstance(answer(loaded)[0], str if loaded.source.family.TASK == "asr" else float)
