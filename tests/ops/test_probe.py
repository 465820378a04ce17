"""Probes against whole runs of a model with the change in it, built anew, and against eval."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch

from asrcompress.errors import AsrCompressError
from asrcompress.grids import Granularity, QuantizedWeight
from asrcompress.models.criterion import negative_log_likelihood
from asrcompress.modules.twins import find_static_twin
from asrcompress.ops.eval_config import EvalConfig
from asrcompress.ops.evaluate import evaluate
from asrcompress.ops.load import Source, build_model, open_source
from asrcompress.ops.probe import Probe, ProbeData, divergence, read_probe_data
from asrcompress.ops.quantize import QuantizeConfig, quantize
from asrcompress.ops.speech_choice import spread
from asrcompress.ops.units import Option, Unit, activation_units, weight_units
from asrcompress.quantizers import get_quantizer


def candidate_of(source: Source):
    tensors = dict(build_model(source).module.named_parameters())

    def candidate(unit: Unit, option: Option) -> QuantizedWeight:
        return get_quantizer("rtn")(
            tensors[unit.name].detach(), num_bits=option.num_bits, granularity=Granularity.parse("per_channel"), name=unit.name, statistics=None
        )  # fmt: skip

    return candidate


def make_probe(source: Source, data: ProbeData, **options) -> Probe:
    """With the activations of attention, norms and softmax among its units."""
    model = build_model(source).module
    probe = Probe(source, weight_units(model), candidate_of(source), data, **options)
    norms = [name for name, module in model.named_modules() if "norm" in name and find_static_twin(module)]
    probe.add_units(activation_units(probe.activation_sites(), model, norms))
    return probe


def in_full(
    source: Source, data: ProbeData, changes: dict[str, Option], batches: list[list[int]]
) -> tuple[float, list[torch.Tensor]]:
    """Loss and log-probabilities of a new model with changed weights, without a probe."""
    module = build_model(source).module
    candidate = candidate_of(source)
    log_probs: dict[int, torch.Tensor] = {}
    total, count = [], 0
    with torch.no_grad():
        for name, option in changes.items():
            weight = Unit(name, "", "", "weight", tuple(module.get_parameter(name).shape))
            module.get_parameter(name).copy_(candidate(weight, option).dequantize())
        for batch in batches:
            targets = [data.targets[position] for position in batch]
            found = source.family.log_probs(
                source.spec, module, [data.features[position] for position in batch], targets
            )
            sums, counts = negative_log_likelihood(source.family, source.spec, found, targets)
            total += sums.tolist()
            count += int(counts.sum())
            log_probs |= dict(zip(batch, found, strict=True))
    return math.fsum(total) / count, [log_probs[position] for position in sorted(log_probs)]


@pytest.fixture(scope="module")
def asr(samples_dir: Path) -> Probe:
    source = open_source(samples_dir / "asr" / "checkpoint_best.pt")
    data = read_probe_data(source, samples_dir / "asr" / "dev.tsv", limit=8)
    return make_probe(source, data, batch_size=3)


@pytest.fixture(scope="module")
def kws(samples_dir: Path) -> Probe:
    source = open_source(samples_dir / "kws" / "crnn_computer.pt")
    data = read_probe_data(source, samples_dir / "kws" / "manifest.tsv", keyword="computer", split="dev")
    return make_probe(source, data)


@pytest.fixture(scope="module")
def wav2vec_probe(tiny_wav2vec_ctc: Path, tiny_speech: Path, tmp_path_factory: pytest.TempPathFactory) -> Probe:
    """Three recordings, two of one length; group norm over time hears padding."""
    folder = tmp_path_factory.mktemp("wav2vec")
    (folder / "twice.flac").write_bytes((tiny_speech.parent / "3.flac").read_bytes())
    audio = [tiny_speech.parent / "1.flac", folder / "twice.flac", tiny_speech.parent / "3.flac"]
    rows = [f"{file}\t{text}" for file, text in zip(audio, ("TEA", "TO EAT", "EAT"), strict=True)]
    (folder / "t.tsv").write_text("\n".join(rows) + "\n")
    source = open_source(tiny_wav2vec_ctc)
    return make_probe(source, read_probe_data(source, folder / "t.tsv"))


@pytest.fixture(scope="module", params=["asr", "kws"])
def probe(request: pytest.FixtureRequest) -> Probe:
    return request.getfixturevalue(request.param)


def batches_of(probe: Probe) -> list[list[int]]:
    return probe._batches


def test_a_weight_unit_gives_the_very_loss_and_divergence_of_a_full_run(probe: Probe) -> None:
    _, floats = in_full(probe.source, probe.data, {}, batches_of(probe))
    steps = sum(map(len, floats))
    names = [name for name, unit in probe.units.items() if unit.target == "weight"]
    for name in names if len(names) < 10 else names[::4]:
        found = probe.measure({name: Option(2)}, decode=False)
        loss, outputs = in_full(probe.source, probe.data, {name: Option(2)}, batches_of(probe))
        kl = math.fsum(divergence(p, q) for p, q in zip(floats, outputs, strict=True)) / steps
        assert (found.loss, found.kl) == (loss, kl), name


def test_divergence_by_hand() -> None:
    p, q = torch.tensor([[0.5, 0.5], [1.0, 0.0]]).log(), torch.tensor([[0.9, 0.1], [0.25, 0.75]]).log()
    expected = 0.5 * math.log(0.5 / 0.9) + 0.5 * math.log(0.5 / 0.1) + math.log(1 / 0.25)
    assert divergence(p, q) == pytest.approx(expected, rel=1e-6)
    assert divergence(q, q + 1e-4) == pytest.approx(0, abs=1e-14)  # normalised anew


def test_several_changes_at_once(probe: Probe) -> None:
    weights = [name for name, unit in probe.units.items() if unit.target == "weight"]
    changes = {weights[1]: Option(3), weights[-1]: Option(2), weights[-2]: Option(2)}
    loss, _ = in_full(probe.source, probe.data, changes, batches_of(probe))
    assert probe.measure(changes, decode=False).loss == loss


def test_the_model_is_bit_for_bit_as_it_was_after_trials_and_errors(
    probe: Probe, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = {name: tensor.clone() for name, tensor in probe.model.state_dict().items()}
    baseline = probe.baseline
    for name in list(probe.units)[:: len(probe.units) // 8]:
        probe.measure({name: Option(4)}, decode=name.endswith("softmax"))
    weight, activations = next(iter(probe.units)), list(probe.units)[-1]

    def broken(*_: object, **__: object) -> None:
        raise RuntimeError("broken")

    monkeypatch.setattr(probe, "_measure", broken)
    with pytest.raises(RuntimeError, match="broken"):
        probe.measure({weight: Option(2), activations: Option(2)}, decode=False)
    monkeypatch.undo()
    assert all(torch.equal(tensor, before[name]) for name, tensor in probe.model.state_dict().items())
    assert probe.measure({}, decode=True) == probe.baseline == baseline
    assert baseline.kl == 0


def test_results_do_not_depend_on_what_ran_before_nor_on_what_is_kept(asr: Probe) -> None:
    names = [name for name in asr.units if "layers.1" in name][:6] + [
        name for name in asr.units if name.endswith("softmax")
    ][:2]
    first = [asr.measure({name: Option(3)}, decode=True) for name in names]
    again = [asr.measure({name: Option(3)}, decode=True) for name in reversed(names)][::-1]
    other = make_probe(asr.source, asr.data, batch_size=3, cache_bytes=0)
    assert other._rig.cache.size_bytes == 0 < asr._rig.cache.size_bytes
    without = [other.measure({name: Option(3)}, decode=True) for name in names]
    assert first == again == without


def test_errors_are_those_of_eval_of_an_artifact_with_the_change(asr: Probe, samples_dir: Path, tmp_path: Path) -> None:
    """Greedy, utterance by utterance there, in padded batches here."""
    dev = samples_dir / "asr" / "dev.tsv"
    whole = make_probe(asr.source, read_probe_data(asr.source, dev))
    name = "encoder.transformer_layers.0.fc1.weight"
    for include, changes in ((None, {}), (name, {name: Option(2)})):
        path = asr.source.path
        if include:
            path = quantize(path, tmp_path / "q.safetensors", QuantizeConfig(num_bits=2, include=(include,))).path
        _, record = evaluate(path, EvalConfig(data=dev, beam=1), output=tmp_path / f"{include}.json")
        metrics = record["metrics"]
        errors = metrics["substitutions"] + metrics["insertions"] + metrics["deletions"]
        found = whole.measure(changes, decode=True)
        assert (found.num_errors, found.num_reference) == (errors, metrics["num_reference_words"])
        assert found.wer == metrics["wer"]


def test_the_area_is_that_of_eval_of_an_artifact_with_the_change(kws: Probe, samples_dir: Path, tmp_path: Path) -> None:
    name = "gru.weight_hh_l0"
    include = ("gru.*",)
    path = quantize(kws.source.path, tmp_path / "q.safetensors", QuantizeConfig(num_bits=3, include=include)).path
    config = EvalConfig(data=samples_dir / "kws" / "manifest.tsv", keyword="computer", split="dev", batch_size=16)
    _, record = evaluate(path, config, output=tmp_path / "e.json")
    changes = {unit: Option(3) for unit in kws.units if unit.startswith("gru.weight")}
    assert name in changes
    assert kws.measure(changes, decode=True).au_fa_fr == record["metrics"]["au_fa_fr"]


def test_an_activation_unit_changes_little_at_8_bits_and_more_at_2(probe: Probe) -> None:
    names = [name for name, unit in probe.units.items() if unit.target == "activations"]
    assert {probe.units[name].kind for name in names} >= {"softmax", "attention products"}
    for name in names:
        kl = {bits: probe.measure({name: Option(bits)}, decode=False).kl for bits in (8, 4, 2)}
        assert 0 <= kl[8] < 0.05 * kl[2], name
        assert kl[8] < kl[4] < 2 * kl[2], name


def test_weights_and_activations_change_together(probe: Probe) -> None:
    weight = next(iter(probe.units))
    softmax = next(name for name in probe.units if name.endswith(":softmax"))
    alone = [probe.measure({name: Option(2)}, decode=False).loss for name in (weight, softmax)]
    both = probe.measure({weight: Option(2), softmax: Option(2)}, decode=False).loss
    assert both not in alone
    assert probe.measure({weight: Option(2), softmax: Option(8)}, decode=False).loss == pytest.approx(
        alone[0], rel=0.05
    )


def test_what_cannot_be_changed_is_said(asr: Probe) -> None:
    with pytest.raises(AsrCompressError, match="x.weight: is no unit of .*; the first are encoder"):
        asr.measure({"x.weight": Option(4)}, decode=False)
    softmax = next(name for name in asr.units if name.endswith(":softmax"))
    with pytest.raises(AsrCompressError, match=r"softmax: cannot have int4\+2:4"):
        asr.measure({softmax: Option(4, (2, 4))}, decode=False)
    asr.add_units([Unit("odd", "softmax", "", "activations", (), ("nowhere:q",))])
    with pytest.raises(AsrCompressError, match="nowhere:q: is passed by no activation"):
        asr.measure({"odd": Option(4)}, decode=False)
    del asr.units["odd"]


def test_a_part_of_the_data_is_spread_evenly_and_has_its_own_hash(asr: Probe, samples_dir: Path) -> None:
    assert spread(range(10), 4) == (0, 2, 5, 7) and spread(range(3), 9) == (0, 1, 2) == spread(range(3), None)
    whole = read_probe_data(asr.source, samples_dir / "asr" / "dev.tsv")
    assert asr.data.references == spread(whole.references, 8)
    assert all(torch.equal(a, b) for a, b in zip(asr.data.targets, spread(whole.targets, 8), strict=True))
    assert len({whole.sha256, asr.data.sha256}) == 2
    assert asr.data.describe() == {"file": "dev.tsv", "sha256": asr.data.sha256, "num_utterances": 8, "split": None}


def test_audio_that_cannot_be_read_or_has_no_frame(tiny_s2t: Path, tiny_speech: Path, tmp_path: Path) -> None:
    import soundfile

    source = open_source(tiny_s2t)
    (tmp_path / "bad.flac").write_bytes(b"x")
    table = tmp_path / "t.tsv"
    table.write_text(f"{tiny_speech.parent / '0.flac'}\tgo left\nbad.flac\tstop\n")
    with pytest.raises(AsrCompressError, match=r"t.tsv: 1 of 2 audio files cannot be scored, the first: .*bad.flac"):
        read_probe_data(source, table)
    soundfile.write(tmp_path / "short.flac", [0.1] * 100, 16000)
    table.write_text(f"{tiny_speech.parent / '0.flac'}\tgo left\nshort.flac\tstop stop\n")
    probe = Probe(source, [], candidate_of(source), read_probe_data(source, table))
    assert batches_of(probe) == [[0]]
    assert probe.baseline.num_reference == 4
    assert probe.baseline.num_errors >= 2  # nothing is recognised where nothing is heard
    with pytest.raises(AsrCompressError, match="--split dev: is for keyword models"):
        read_probe_data(source, table, split="dev")


def test_padded_batches_where_a_model_runs_them_at_once_else_batches_of_one_shape(
    asr: Probe, wav2vec_probe: Probe
) -> None:
    lengths = [[len(asr.data.features[position]) for position in batch] for batch in batches_of(asr)]
    assert any(len(set(batch)) > 1 for batch in lengths)
    shapes = [[len(wav2vec_probe.data.features[position]) for position in batch] for batch in batches_of(wav2vec_probe)]
    assert all(len(set(batch)) == 1 for batch in shapes) and max(map(len, shapes)) == 2
    name = next(name for name in wav2vec_probe.units if name.endswith("fc1.weight"))
    changes = {name: Option(2)}
    found = wav2vec_probe.measure(changes, decode=True)
    loss, _ = in_full(wav2vec_probe.source, wav2vec_probe.data, changes, batches_of(wav2vec_probe))
    assert found.loss == loss
    assert found.num_reference == wav2vec_probe.baseline.num_reference
