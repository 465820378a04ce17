"""export --to c: one source of integers alone whose logits are the artifact's, bit for bit, on clips and on running audio.

Skipped visibly where there is no gcc.
"""

from __future__ import annotations

import ctypes
import math
import re
import shutil
import subprocess
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import jsonschema
import numpy as np
import pytest
import torch
from torch import Tensor

from asrcompress.errors import AsrCompressError
from asrcompress.exporters import Subject, c
from asrcompress.exporters.c_curves import tanh_curve
from asrcompress.exporters.c_measure import Library, count_different_steps, deepest_stack, logit_codes
from asrcompress.exporters.c_network import Network, read_network
from asrcompress.exporters.c_text import Sources, c_name, write_sources
from asrcompress.files import read_json
from asrcompress.grids import Granularity
from asrcompress.integers import lookup
from asrcompress.integers.crossing import enter_integers
from asrcompress.integers.grid import Grid
from asrcompress.integers.lookup import SIGMOID_GRID, look_up, sigmoid
from asrcompress.integers.rescale import shift_right
from asrcompress.models import ModelSpec, kws_crnn
from asrcompress.models.crnn import CRNN
from asrcompress.models.crnn_stream import Memory
from asrcompress.ops.export import WrittenExport, export
from asrcompress.ops.load import LoadedModel, load_model, open_source
from asrcompress.ops.quantize import Calibrate, QuantizeConfig, quantize
from asrcompress.quantizers import get_quantizer
from asrcompress.speech.audio import read_audio
from asrcompress.speech.keyword_datasets import read_keyword_clips
from tests.fixtures.static import static_of

SCHEMA = Path(__file__).parents[2] / "docs" / "sidecar.schema.json"
needs_gcc = pytest.mark.skipif(
    not (shutil.which("gcc") and shutil.which("size")), reason="gcc or size is not installed"
)


@pytest.fixture(scope="module")
def artifact(samples_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The sample's keyword model on integers, with 4 bits a weight."""
    path = tmp_path_factory.mktemp("c") / "computer.int4.safetensors"
    config = QuantizeConfig(num_bits=4, activations="int8", level="integer-only", calibration_limit=8)
    quantize(
        samples_dir / "kws/crnn_computer.pt", path, config, calibrate=Calibrate(samples_dir / "kws/manifest.tsv", "dev")
    )
    return path


@pytest.fixture(scope="module")
def exported(artifact: Path) -> WrittenExport:
    return export(artifact, "c", output=artifact.with_name("computer-c"))


@pytest.fixture(scope="module")
def loaded(artifact: Path) -> LoadedModel:
    return load_model(artifact)


@pytest.fixture(scope="module")
def network(loaded: LoadedModel) -> Network:
    return read_network(subject_of(loaded), 11)


@pytest.fixture(scope="module")
def library(exported: WrittenExport, network: Network) -> Library:
    compile_c(exported.folder, "-O2", "-shared", "-fPIC", "computer.c", "-o", "../computer.so")
    return Library(exported.folder.parent / "computer.so", "computer", network)


@pytest.fixture(scope="module")
def clips(samples_dir: Path) -> list[np.ndarray]:
    """Sixty recordings, the keyword in some."""
    found = read_keyword_clips(samples_dir / "kws/manifest.tsv", keyword="computer", split="test").clips[:60]
    return [read_audio(clip.audio, sample_rate_hz=16_000) for clip in found]


def subject_of(model: LoadedModel) -> Subject:
    source = model.source
    return Subject(
        source.path, source.sha256, source.size_bytes, source.family, source.spec, source.content, model.module
    )


def compile_c(folder: Path, *arguments: str) -> None:
    subprocess.run(
        ["gcc", "-std=c99", "-Wall", "-Wextra", "-Werror", "-pedantic", *arguments], cwd=folder, check=True, timeout=120
    )


def codes_of(frames: Tensor, network: Network) -> np.ndarray:
    """log-mel (mels, frames) -> codes (frames, mels)."""
    grid = network.input
    return enter_integers(frames, grid.scale, grid.zero_point, grid.num_bits).t().numpy()


def made(
    config: dict[str, Any],
    *,
    num_bits: int = 8,
    granularity: str = "per_channel",
    method: str = "rtn",
    bits: int = 16,
    sparsity: float = 0.0,
) -> tuple[Subject, Network, Sources]:
    """A model of random weights on integers, calibrated with noise."""
    torch.manual_seed(3)
    model = CRNN(**config).requires_grad_(False).eval()
    for name, weight in model.named_parameters():
        if "weight" in name:
            weight[torch.rand_like(weight) < sparsity] = 0
    grid, quantizer = Granularity.parse(granularity), get_quantizer("binary" if num_bits == 1 else method)
    packed = {
        name: quantizer(weight.detach(), num_bits=num_bits, granularity=grid, name=name, statistics=None)
        for name, weight in model.named_parameters()
        if "weight" in name
    }
    noise = torch.randn(4, config.get("num_mels", 40), 101) * 3 - 4
    _, module = static_of(model, packed, lambda m: m(noise), bits=bits)
    content = SimpleNamespace(grids=module.sites.grids, recipe={})  # type: ignore[union-attr]
    subject = Subject(Path("m"), "0" * 64, 1, kws_crnn, ModelSpec("kws_crnn", model.sizes), content, module)  # type: ignore[arg-type]
    network = read_network(subject, 5)
    front_end = {"sample_rate_hz": 16000, "window_samples": 400, "hop_samples": 160}
    return subject, network, write_sources(network, "model", "m", "0" * 64, front_end)


@needs_gcc
def test_sixty_clips_have_the_artifacts_logits(
    library: Library, loaded: LoadedModel, network: Network, clips: list[np.ndarray]
) -> None:
    features = [kws_crnn.features(loaded.source.spec, clip) for clip in clips]
    with torch.inference_mode():
        wanted = logit_codes(loaded.module(torch.stack(features)), network)
    assert [library.classify(codes_of(frames, network)) for frames in features] == wanted
    assert len(clips) == 60 and len({tuple(codes) for codes in wanted}) > 50


@needs_gcc
def test_running_audio_has_the_artifacts_logits_at_every_step(
    library: Library, loaded: LoadedModel, network: Network, clips: list[np.ndarray]
) -> None:
    frames = torch.cat([kws_crnn.features(loaded.source.spec, clip) for clip in clips[:8]], dim=1)
    with torch.inference_mode():
        wanted = logit_codes(loaded.module(frames.unsqueeze(0), Memory(11)), network)
    found = library.stream(codes_of(frames, network))
    assert found == wanted and len(found) == (808 - 20) // 8 + 1


@needs_gcc
def test_forgetting_in_the_middle_keeps_the_frames_alone(
    library: Library, loaded: LoadedModel, network: Network, clips: list[np.ndarray]
) -> None:
    frames, memory = kws_crnn.features(loaded.source.spec, clips[0])[:, :60], Memory(11)
    with torch.inference_mode():
        first = loaded.module(frames.unsqueeze(0), memory)
        memory.forget()
        second = loaded.module(frames[:, 10:].unsqueeze(0), memory)
    codes = codes_of(frames, network)
    assert library.stream(codes) == logit_codes(first, network)
    library.forget()
    assert library.feed(codes[10:]) == logit_codes(second, network)


@needs_gcc
def test_the_probability_is_softmaxs_rounded(library: Library, network: Network) -> None:
    for other, keyword in ((0, 0), (32767, -32767), (-32767, 32767), (1200, -345), (-7, 8)):
        exact = sigmoid((keyword - other) * network.logits.scale) * 32768
        assert abs(library.probability((ctypes.c_int16 * 2)(other, keyword)) - exact) < 0.51


@needs_gcc
@pytest.mark.parametrize(
    "options",
    [
        {"config": {"num_channels": 2, "hidden_size": 12}, "num_bits": 2, "granularity": "per_tensor"},
        {"config": {"num_channels": 3, "hidden_size": 5, "num_layers": 3}, "num_bits": 1},
        {"config": {"num_channels": 4, "hidden_size": 16}, "num_bits": 3, "method": "asymmetric", "bits": 8},
        {"config": {"num_channels": 2, "hidden_size": 4, "num_layers": 1}, "num_bits": 4, "granularity": "per_group:4", "method": "asymmetric"},
        {"config": {"num_channels": 2, "hidden_size": 8, "num_mels": 24, "kernel_size": (3, 9), "stride": (4, 13)}, "bits": 12},
    ],
    ids=lambda options: f"{options.get('num_bits', 8)} {options.get('granularity', '')} {options.get('method', '')}",
)  # fmt: skip
def test_every_kind_of_weight_and_size_gives_equal_steps(options: dict[str, Any]) -> None:
    subject, network, sources = made(**options)
    different, compared = count_different_steps(sources.source, sources.header, "model", network, subject.module)
    assert different == 0 and compared > 16


@needs_gcc
def test_weights_of_zero_take_one_bit_where_that_is_smaller() -> None:
    subject, network, sources = made({"num_channels": 2, "hidden_size": 12}, num_bits=4, sparsity=0.5)
    total = 0
    for product in network.products:
        dense, kept = 4 * len(product.codes), sum(code is not None for code in product.codes)
        sparse = len(product.codes) + product.code_bits * kept
        assert product.zeros_apart == (sparse < dense) and kept < 0.7 * len(product.codes)
        total += -(-sparse // 8) + 1
    assert sources.table_bytes["weights"] == total < 0.8 * sum(len(product.codes) for product in network.products) / 2
    assert count_different_steps(sources.source, sources.header, "model", network, subject.module)[0] == 0


def test_coarser_offsets_round_every_sum_that_can_come_alike() -> None:
    subject, network, _ = made({"num_channels": 2, "hidden_size": 12}, num_bits=2, granularity="per_tensor")
    gru: Any = subject.module.gru
    product, fixed = network.layers[0].from_input, gru.fixed["ih_l0"]
    weight = gru.packed["weight_ih_l0"].codes.to(torch.int64)
    zero = fixed.input_grid.zero_point
    exact = fixed.offset + zero * weight.sum(dim=1) * fixed.multiplier[:, 0]
    assert product.offset_shift > 8 and all(offset % 2**product.offset_shift == 0 for offset in product.offsets)
    for row in range(36):
        furthest = int(weight[row].abs().sum()) * (128 + abs(zero))
        products = torch.arange(-furthest, furthest + 1) * fixed.multiplier[row, 0]
        wanted, found = (shift_right(products + offset, fixed.shift) for offset in (exact[row], product.offsets[row]))
        assert torch.equal(found, wanted)


@needs_gcc
def test_a_wrong_constant_is_noticed(network: Network, exported: WrittenExport, loaded: LoadedModel) -> None:
    source, header = ((exported.folder / f"computer.{suffix}").read_text() for suffix in "ch")
    changed = source.replace(
        "return (uint32_t)((exponential(count, softmax_rate)", "return 3 + (uint32_t)((exponential(count, softmax_rate)"
    )
    assert changed != source
    different, compared = count_different_steps(changed, header, "computer", network, loaded.module)
    assert 0 < different <= compared == 52


@needs_gcc
def test_curves_without_tables_give_every_entry_of_the_tables(tmp_path: Path) -> None:
    subject, network, sources = made({"num_channels": 1, "hidden_size": 4, "num_layers": 1})
    (tmp_path / "model.h").write_text(sources.header)
    (tmp_path / "all.c").write_text(
        sources.source
        + "void all(int32_t *knots, int16_t *codes);\nvoid all(int32_t *knots, int16_t *codes)\n{\n    int32_t i;\n"
        "    for (i = -2048; i <= 2048; i++) {\n        knots[i + 2048] = knot_value(&layers[0].sigmoid, i);\n"
        "        knots[i + 6145] = knot_value(&energy_tanh, i);\n    }\n"
        "    for (i = -32767; i <= 32767; i++)\n        codes[i + 32767] = (int16_t)look_up(&layers[0].sigmoid, i);\n}\n"
    )
    compile_c(tmp_path, "-O2", "-shared", "-fPIC", "all.c", "-o", "all.so")
    knots, found = np.zeros(2 * 4097, dtype=np.int32), np.zeros(65535, dtype=np.int16)
    ctypes.CDLL(str(tmp_path / "all.so")).all(*(x.ctypes.data_as(ctypes.c_void_p) for x in (knots, found)))
    gates, grids = network.layers[0].gates, subject.content.grids  # type: ignore[union-attr]
    tables = (
        lookup._entries(sigmoid, (), gates, SIGMOID_GRID)[0],
        lookup._entries(math.tanh, (), grids["attention.energy.0:out"], grids["attention.energy.1:table"])[0],
    )
    assert knots.tolist() == torch.cat(tables).tolist()
    codes = torch.arange(-32767, 32768, dtype=torch.int16)
    assert np.array_equal(found, look_up(codes, gates, SIGMOID_GRID, sigmoid).numpy())


def test_a_correction_is_made_where_rounding_needs_one() -> None:
    """Of the curves of one artifact in a few, one entry lies so close to a half that the exponential's error decides."""
    curve = tanh_curve(Grid(6.057e-05, 0, 16), Grid(6.057e-05, 0, 16), "m")
    table, _ = lookup._entries(math.tanh, (), Grid(6.057e-05, 0, 16), Grid(6.057e-05, 0, 16))
    assert curve.corrections == {-1675: 1, 1675: -1}
    assert [curve.plain(knot) + curve.corrections.get(knot, 0) for knot in (-1675, 1674, 1675)] == [
        int(table[knot + 2048]) for knot in (-1675, 1674, 1675)
    ]


@needs_gcc
def test_there_is_no_float_in_source_or_object(exported: WrittenExport, tmp_path: Path) -> None:
    plain = subprocess.run(
        ["gcc", "-std=c99", "-E", "-P", "computer.c"], cwd=exported.folder, check=True, capture_output=True, text=True
    ).stdout
    own = plain[plain.index("typedef int16_t computer_input") :]
    assert not re.search(r"\b(float|double|_Complex)\b|\b\d+\.\d*|\b0x[0-9a-fA-F]+p|\b\d+[eE][-+]?\d", own)
    registers = () if "arm" in subprocess.getoutput("gcc -dumpmachine") else ("-mgeneral-regs-only",)
    compile_c(exported.folder, "-O2", *registers, "-c", "computer.c", "-o", str(tmp_path / "computer.o"))
    listing = subprocess.run(
        ["objdump", "-d", str(tmp_path / "computer.o")], check=True, capture_output=True, text=True
    ).stdout
    assert "computer_feed" in listing and not re.search(r"%[xyz]mm|%st\b|\bf(ld|st|add|mul)", listing)


@needs_gcc
def test_sanitizers_find_nothing_from_the_first_frame_to_the_last(
    exported: WrittenExport, network: Network, tmp_path: Path
) -> None:
    (tmp_path / "main.c").write_text(
        '#include "computer.h"\n#include <stdio.h>\n#include <stdlib.h>\n'
        "int main(void)\n{\n    computer_state *state = malloc(sizeof *state);\n    computer_input frame[COMPUTER_NUM_MELS];\n"
        "    int16_t logits[2];\n    computer_start(state);\n"
        "    while (fread(frame, sizeof frame, 1, stdin) == 1)\n        if (computer_feed(state, frame, logits))\n"
        '            printf("%d %d %u\\n", logits[0], logits[1], computer_probability(logits));\n'
        "    computer_forget(state);\n    free(state);\n    return 0;\n}\n"
    )
    try:
        compile_c(
            tmp_path, "-g", "-O1", "-fsanitize=address,undefined", "-fno-sanitize-recover=all", f"-I{exported.folder}",
            "main.c", str(exported.folder / "computer.c"), "-o", "main",
        )  # fmt: skip
    except subprocess.CalledProcessError:
        pytest.skip("gcc here has no sanitizers")
    low, high = network.input.code_min, network.input.code_max
    frames = np.random.default_rng(5).choice([low, high, 0], size=(120, 40)).astype("<i2")  # the worst that can come
    done = subprocess.run([tmp_path / "main"], input=frames.tobytes(), capture_output=True)
    assert done.returncode == 0 and done.stderr == b"" and len(done.stdout.splitlines()) == 13


@needs_gcc
def test_the_sidecar_has_flash_and_ram_and_fits_the_schema(exported: WrittenExport) -> None:
    record = read_json(exported.sidecar)
    jsonschema.validate(record, read_json(SCHEMA))
    block, metrics = record["export"], record["metrics"]
    num_weights = 8 * 100 + 192 * (144 + 64 + 64 + 64) + 64 * 64 + 64 + 2 * 64
    assert block["table_bytes"]["weights"] == num_weights / 2
    assert metrics["c_flash_bytes"] > sum(block["table_bytes"].values()) > 40_000
    assert metrics["c_ram_bytes"] == metrics["c_state_bytes"] + block["stack_bytes"]
    assert metrics["c_num_different_steps"] == 0 and block["num_compared_steps"] == 52
    assert exported.main.name == "computer.c" and "equal" in exported.notes[0]


@needs_gcc
def test_the_state_is_as_large_as_said(exported: WrittenExport, tmp_path: Path) -> None:
    said = exported.record["metrics"]["c_state_bytes"]
    (tmp_path / "check.c").write_text(
        f'#include "computer.h"\nextern char exact[sizeof(computer_state) == {said} ? 1 : -1];\n'
    )
    compile_c(tmp_path, f"-I{exported.folder}", "-c", "check.c")


def test_without_gcc_nothing_is_measured_and_that_is_said(
    artifact: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(c, "has_gcc", lambda: False)
    written = export(artifact, "c", output=tmp_path / "small")
    jsonschema.validate(written.record, read_json(SCHEMA))
    metrics = written.record["metrics"]
    assert metrics["c_flash_bytes"] is None and metrics["c_ram_bytes"] is None and metrics["c_state_bytes"] > 2000
    assert written.record["export"]["num_compared_steps"] is None and "not installed" in written.notes[0]


def test_the_same_artifact_gives_the_same_source(exported: WrittenExport, artifact: Path, tmp_path: Path) -> None:
    again = export(artifact, "c", output=tmp_path / "computer-c")
    for name in ("computer.c", "computer.h"):
        assert (again.folder / name).read_bytes() == (exported.folder / name).read_bytes()


def test_what_has_no_form_in_c_is_refused(
    samples_dir: Path, tiny_s2t: Path, tmp_path: Path, loaded: LoadedModel
) -> None:
    checkpoint, stored = samples_dir / "kws/crnn_computer.pt", tmp_path / "stored.safetensors"
    quantize(checkpoint, stored, QuantizeConfig(num_bits=4))
    for path, cause in (
        (checkpoint, "does not compute in integers alone; quantize the model with --level integer-only"),
        (stored, "does not compute in integers alone"),
        (tiny_s2t, "is a s2t_transformer, and the C source is of keyword models"),
    ):
        with pytest.raises(AsrCompressError, match=re.escape(str(path)) + ".*" + cause):
            export(path, "c", output=tmp_path / "out")
        assert not (tmp_path / "out").exists()
    subject = subject_of(loaded)
    kept = SimpleNamespace(grids=subject.content.grids, recipe={"islands": ["classifier"]})  # type: ignore[union-attr]
    with pytest.raises(AsrCompressError, match="classifier computes in float"):
        read_network(Subject(subject.path, "", 1, kws_crnn, subject.spec, kept, subject.module), 11)  # type: ignore[arg-type]


def test_clips_of_the_wrong_length_are_refused(library: Library) -> None:
    fits = 20 + 10 * 8
    assert [len(library.classify(np.zeros((frames, 40)))) for frames in (19, 20, fits + 7, fits + 8)] == [0, 2, 2, 0]


def test_the_deepest_chain_of_calls_counts() -> None:
    graph = "".join(
        f'node: {{ title: "{name}" label: "{name}\\nm.c:1:1\\n{size} bytes (static)\\n0 dynamic objects" }}\n'
        for name, size in (("feed", 16), ("hear", 100), ("multiply", 300), ("classify", 500))
    )
    edges = (("feed", "hear"), ("hear", "multiply"), ("feed", "classify"), ("hear", "memmove"))
    graph += "".join(f'edge: {{ sourcename: "{a}" targetname: "{b}" label: "m.c:2:3" }}\n' for a, b in edges)
    assert deepest_stack(graph) == 516


def test_names_are_names_in_c() -> None:
    assert [c_name(stem) for stem in ("Hey-Computer.int4", "4bits", "é", "stdint")] == [
        "hey_computer_int4",
        "kws_4bits",
        "keyword",
        "kws_stdint",
    ]


def test_a_grid_keeps_its_fields_in_the_header(exported: WrittenExport, network: Network) -> None:
    header = (exported.folder / "computer.h").read_text()
    numbers = {
        name: int(re.search(rf"#define COMPUTER_{name} (\S+)", header)[1])  # type: ignore[index]
        for name in ("INPUT_NUMERATOR", "INPUT_DENOMINATOR", "INPUT_ZERO")
    }
    assert Grid(numbers["INPUT_NUMERATOR"] / numbers["INPUT_DENOMINATOR"], numbers["INPUT_ZERO"], 16) == network.input
    assert open_source(exported.folder.parent / "computer.int4.safetensors").sha256 in header
