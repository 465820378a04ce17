"""What is seen of a model's layers, against what the layers' weights give by hand, in every family."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from asrcompress.models.crnn import CRNN
from asrcompress.ops.load import LoadedModel, load_model
from asrcompress.ops.teacher import frames_of
from asrcompress.training.watch import Seen, pair_layers, watch

MAPS = {  # fixture -> layers of each stack
    "tiny_s2t": {"encoder": 2, "decoder": 2, "cross": 2},
    "tiny_s2t_conformer": {"encoder": 2, "decoder": 2, "cross": 2},
    "tiny_s2t_conformer_rope": {"encoder": 2, "decoder": 2, "cross": 2},
    "tiny_s2t_conformer_abs": {"encoder": 2, "decoder": 2, "cross": 2},
    "tiny_s2t_conformer_fairseq": {"encoder": 2, "decoder": 2, "cross": 2},
    "tiny_vgg": {"encoder": 2, "decoder": 2, "cross": 2},
    "tiny_vgg_encoder": {"encoder": 2},
    "tiny_wav2vec_ctc": {"encoder": 2},
    "tiny_hubert_ctc": {"encoder": 2},
    "tiny_kws": {"encoder": 1},
}
SECONDS = (0.9, 0.55, 0.7)


def run(loaded: LoadedModel, seconds: tuple[float, ...], **watched: bool) -> tuple[list[Tensor], Seen]:
    """Of noise; an utterance is the same whoever it is with."""
    family, spec = loaded.source.family, loaded.source.spec
    noise = [torch.randn(16_000, generator=torch.Generator().manual_seed(int(100 * s))) for s in seconds]
    heard = [family.features(spec, 0.1 * n.numpy()[: int(16_000 * s)]) for n, s in zip(noise, seconds, strict=True)]
    targets = [torch.tensor([5, 4, 6, 5, 4, 2][-int(6 * s) - 1 :]) for s in seconds]
    with torch.no_grad(), watch(loaded.module, **watched) as seen:
        rows = family.log_probs(spec, loaded.module, heard, targets)
    return rows, seen


@pytest.mark.parametrize("fixture", MAPS)
def test_layers_are_seen_as_often_as_they_are_and_as_they_are_alone(fixture, request):
    loaded = load_model(request.getfixturevalue(fixture))
    family = loaded.source.family
    seconds = SECONDS[:1] if fixture == "tiny_wav2vec_ctc" else SECONDS  # its norm over time hears padding
    rows, seen = run(loaded, seconds, maps=True, outputs=True)
    expected = MAPS[fixture]
    assert {stack: len(layers) for stack, layers in seen.maps.items()} == expected
    assert {stack: len(layers) for stack, layers in seen.outputs.items()} == {
        stack: count for stack, count in expected.items() if stack != "cross"
    }
    for index, second in enumerate(seconds):
        (values,), alone = run(loaded, (second,), maps=True, outputs=True)
        alone = alone.of(0, frames_of(family, values))
        assert torch.allclose(rows[index], values, atol=1e-5)
        for kind in ("maps", "outputs"):
            for stack, layers in getattr(alone, kind).items():
                for layer, (short, whole) in enumerate(zip(layers, getattr(seen, kind)[stack], strict=True)):
                    inside = tuple(slice(size) for size in short.shape)
                    assert torch.allclose(whole[index][inside], short, atol=1e-5), (kind, stack, layer)
                    if kind == "maps":  # of what is there, and of nothing else
                        assert torch.allclose(short.sum(dim=-1), torch.ones(len(short)), atol=1e-5)
                    else:
                        assert float(short.std()) > 0.01


@pytest.mark.parametrize("fixture", MAPS)
def test_watching_changes_nothing_and_ends(fixture, request):
    loaded, seconds = load_model(request.getfixturevalue(fixture)), SECONDS[:1]
    before, none = run(loaded, seconds, maps=False, outputs=False)
    assert none.tensors == []
    watched, _ = run(loaded, seconds, maps=True, outputs=True)
    assert all(torch.allclose(one, other, atol=1e-5) for one, other in zip(before, watched, strict=True))
    kept = [getattr(module, "attn", None) for module in loaded.module.modules()]
    assert not any(isinstance(value, Tensor) for value in kept)  # else it would hold on to a graph
    after, none = run(loaded, seconds, maps=False, outputs=False)
    assert none.tensors == []
    assert all(torch.equal(one, other) for one, other in zip(before, after, strict=True))
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in loaded.module.modules())


@pytest.mark.parametrize("kind", ("self_attn", "encoder_attn"))
def test_a_map_is_the_mean_over_heads_of_the_softmax(kind, tiny_s2t):
    loaded = load_model(tiny_s2t)
    layer: Any = loaded.module.get_submodule("decoder.layers.1")
    attention, inputs = getattr(layer, kind), {}
    attention.register_forward_pre_hook(lambda module, args, named: inputs.update(named), with_kwargs=True)
    _, seen = run(loaded, (0.7,), maps=True, outputs=False)
    query, key = attention.q_proj(inputs["query"])[:, 0], attention.k_proj(inputs["key"])[:, 0]
    heads = []
    for q, k in zip(query.chunk(attention.num_heads, dim=-1), key.chunk(attention.num_heads, dim=-1), strict=True):
        scores = q @ k.T / q.shape[-1] ** 0.5
        if kind == "self_attn":
            scores = scores.masked_fill(torch.ones_like(scores).triu(1).bool(), -torch.inf)
        heads.append(scores.softmax(dim=-1))
    assert len(heads) == 2
    found = seen.maps["decoder" if kind == "self_attn" else "cross"][1][0]
    assert torch.allclose(found, torch.stack(heads).mean(dim=0), atol=1e-6)


def test_the_keyword_models_map_is_what_its_frames_are_summed_by():
    model = CRNN(2, 6).eval()
    clips = torch.randn(3, 40, 101, generator=torch.Generator().manual_seed(1))
    with torch.no_grad(), watch(model, maps=True, outputs=True) as seen:
        logits = model(clips)
    (weights,), (hidden,) = seen.maps["encoder"], seen.outputs["encoder"]
    assert weights.shape == (3, 1, 11)
    assert torch.allclose(model.classifier((weights @ hidden).squeeze(1)), logits, atol=1e-6)


def test_gradients_reach_the_weights_behind_a_map_and_an_output(tiny_s2t_conformer):
    loaded = load_model(tiny_s2t_conformer)
    module = loaded.module.requires_grad_(True)
    family, spec = loaded.source.family, loaded.source.spec
    heard = [family.features(spec, torch.randn(9_000).numpy())]
    with watch(module, maps=True, outputs=True) as seen:
        family.log_probs(spec, module, heard, [torch.tensor([4, 2])])
    sum(layer.square().sum() for layer in seen.maps["encoder"]).backward()
    assert float(module.get_parameter("encoder.conformer_layers.1.self_attn.linear_q.weight").grad.abs().max()) > 0
    assert module.get_parameter("encoder.conformer_layers.1.ffn2.w_2.weight").grad is None


def test_layers_are_paired_evenly_and_the_last_with_the_last():
    pairs = {
        (6, 12): [1, 3, 5, 7, 9, 11],  # every other one
        (3, 12): [3, 7, 11],
        (4, 4): [0, 1, 2, 3],
        (2, 3): [1, 2],
        (4, 6): [1, 2, 4, 5],
        (1, 9): [8],
        (3, 1): [0, 0, 0],
        (4, 2): [0, 0, 1, 1],
    }
    for (student, teacher), expected in pairs.items():
        found = pair_layers({"encoder": student, "decoder": 1}, {"encoder": teacher, "decoder": 2})
        assert found["encoder"] == list(enumerate(expected)), (student, teacher)
        assert found["decoder"] == [(0, 1)]


def test_stacks_that_the_other_lacks_are_an_error():
    with pytest.raises(ValueError, match="the one has encoder layers and the other decoder and encoder layers"):
        pair_layers({"encoder": 2}, {"encoder": 2, "decoder": 2})


def test_an_error_inside_leaves_no_hook_behind():
    model = nn.Sequential(CRNN(2, 6))
    with pytest.raises(RuntimeError), watch(model, maps=True, outputs=True):
        raise RuntimeError
    assert not any(module._forward_hooks for module in model.modules())


def test_two_runs_in_one_are_an_error(tiny_wav2vec_ctc):
    """Utterances of several lengths run apart in a family that hears padding: whose layers are whose, nobody could tell."""
    loaded = load_model(tiny_wav2vec_ctc)
    with pytest.raises(RuntimeError, match="2 layers were watched in one run, and were run 6 times"):
        run(loaded, SECONDS, maps=True, outputs=True)
