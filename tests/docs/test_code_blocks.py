"""The Python in docs/ runs, prints what it says, and reads artifacts as asrcompress does."""

from __future__ import annotations

import contextlib
import dataclasses
import inspect
import itertools
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import asrcompress
from asrcompress.artifact import ArtifactContent, load_artifact, save_artifact
from asrcompress.artifact_file import byte_ledger, file_parts, read_record
from asrcompress.grids import Granularity
from asrcompress.group_codes import split
from asrcompress.models import FAMILIES
from asrcompress.models.crnn import CRNN
from asrcompress.ops.quantize import Calibrate, QuantizeConfig, quantize
from asrcompress.packing import pack, pack_mask
from asrcompress.patterns import UNSTRUCTURED, code_sizes, group_code_bits, keep_largest, parse_pattern
from asrcompress.quantizers import QUANTIZERS, get_quantizer, rtn
from asrcompress.sparse import SparseWeight
from asrcompress.sparsifiers import SPARSIFIERS, prune
from tests.test_artifact import make_content, make_sparse, make_zero_points
from tests.test_compact_artifact import compacted, make_odd
from tests.test_sparse import make_sparse_floats, make_unstructured

DOCS = Path(__file__).resolve().parents[2] / "docs"


def blocks(page: str, marker: str = "") -> list[str]:
    """The Python blocks of a page; with a marker, those right behind `<!-- test: marker -->`."""
    before = rf"<!-- test: {marker} -->\n" if marker else ""
    return re.findall(rf"{before}```python\n(.*?)```", (DOCS / page).read_text(encoding="utf-8"), re.DOTALL)


def run_without_asrcompress(code: str, folder: Path) -> None:
    """Run code in a process where asrcompress, torch and safetensors cannot be imported."""
    blocked = "import sys\nfor name in ('asrcompress', 'torch', 'safetensors'): sys.modules[name] = None\n"
    result = subprocess.run([sys.executable, "-c", blocked + code], cwd=folder, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr


@pytest.mark.parametrize("num_bits", [4, 8, 3, 2])
@pytest.mark.parametrize("granularity", ["per_channel", "per_tensor", "per_group:4"])
def test_the_reader_of_the_format_page_gives_the_same_bits(
    tiny_kws: Path, tmp_path: Path, num_bits: int, granularity: str
) -> None:
    (reader,) = blocks("artifact-format.md", "reader")
    path = tmp_path / "q.safetensors"
    quantize(tiny_kws, path, QuantizeConfig(num_bits=num_bits, granularity=granularity))
    names = ["gru.weight_ih_l0", "conv.0.weight", "classifier.weight"]
    save = f"\nfor name in {names}:\n    np.save(name, read_weight('q.safetensors', name))\n"
    run_without_asrcompress(reader + save, tmp_path)
    content = load_artifact(path)
    for name in names:
        found, expected = np.load(tmp_path / f"{name}.npy"), content.quantized[name].dequantize().numpy()
        assert found.dtype == expected.dtype == np.float32
        np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize("granularity", ["per_channel", "per_tensor", "per_group:4"])
@pytest.mark.parametrize(
    ("method", "num_bits"), [("asymmetric", 8), ("asymmetric", 3), ("asymmetric", 2), ("binary", 1)]
)
def test_the_reader_takes_zero_points_and_one_bit(tmp_path: Path, method: str, num_bits: int, granularity: str) -> None:
    weight = get_quantizer(method)(
        torch.rand(5, 2, 6, generator=torch.Generator().manual_seed(0)) - 0.2,
        num_bits=num_bits,
        granularity=Granularity.parse(granularity),
    )
    save_artifact(tmp_path / "q.safetensors", ArtifactContent("kws_crnn", {}, None, {}, {}, {"w": weight}, {}))
    (reader,) = blocks("artifact-format.md", "reader")
    run_without_asrcompress(reader + "\nnp.save('w', read_weight('q.safetensors', 'w'))\n", tmp_path)
    np.testing.assert_array_equal(np.load(tmp_path / "w.npy"), weight.dequantize().numpy())


@pytest.mark.parametrize("granularity", ["per_channel", "per_tensor", "per_group:6"])
@pytest.mark.parametrize(
    ("method", "num_bits"), [("mse", 8), ("rtn", 4), ("asymmetric", 3), ("asymmetric", 2), ("binary", 1)]
)
def test_the_reader_takes_patterns(tmp_path: Path, method: str, num_bits: int, granularity: str) -> None:
    weight = torch.rand(5, 3, 16, generator=torch.Generator().manual_seed(0)) - 0.2
    options = {"num_bits": num_bits, "granularity": Granularity.parse(granularity)}
    quantized = {
        f"w{keep_n}:{group_m}": get_quantizer(method)(
            weight, pruned=prune(weight, (keep_n, group_m), sparsifier="magnitude"), **options
        )
        for keep_n, group_m in ((2, 4), (1, 4), (4, 8), (7, 16))
    }
    save_artifact(tmp_path / "q.safetensors", ArtifactContent("kws_crnn", {}, None, {}, {}, quantized, {}))
    (reader,) = blocks("artifact-format.md", "reader")
    save = f"\nfor name in {list(quantized)}:\n    np.save(name, read_weight('q.safetensors', name))\n"
    run_without_asrcompress(reader + save, tmp_path)
    for name, packed in quantized.items():
        np.testing.assert_array_equal(np.load(tmp_path / f"{name}.npy"), packed.dequantize().numpy())


def test_the_reader_reads_a_whole_file_with_patterns(tiny_kws: Path, tmp_path: Path) -> None:
    (reader,) = blocks("artifact-format.md", "reader")
    quantize(tiny_kws, tmp_path / "q.safetensors", QuantizeConfig(num_bits=4, pattern="2:4", method="asymmetric"))
    content = load_artifact(tmp_path / "q.safetensors")
    assert all(weight.pattern == (2, 4) for weight in content.quantized.values())
    save = f"\nfor name in {list(content.quantized)}:\n    np.save(name, read_weight('q.safetensors', name))\n"
    run_without_asrcompress(reader + save, tmp_path)
    for name, packed in content.quantized.items():
        np.testing.assert_array_equal(np.load(tmp_path / f"{name}.npy"), packed.dequantize().numpy())


def test_the_bytes_of_the_page_on_patterns() -> None:
    """Its table of ranks, of bits per weight, and its example."""
    page = (DOCS / "artifact-format.md").read_text(encoding="utf-8")
    (ranks,) = re.findall(r"^\| kept places \| (.*) \|$", page, re.MULTILINE)
    assert [tuple(map(int, cell.split(", "))) for cell in ranks.split(" | ")] == list(
        itertools.combinations(range(4), 2)
    )
    rows = re.findall(r"^\| (\d:\d) \| (\d) \| ([\d., ]+) \|$", page, re.MULTILINE)
    assert [row[0] for row in rows] == ["2:4", "1:4", "4:8"]
    for name, bits, per_weight in rows:
        pattern = parse_pattern(name)
        assert group_code_bits(pattern) == int(bits)
        for num_bits, expected in zip((8, 4, 3, 2, 1), per_weight.split(", "), strict=True):
            assert sum(code_sizes(1024, num_bits, pattern).values()) * 8 / 1024 == float(expected)
    ((row, kept, kept_hex, groups, groups_hex),) = re.findall(
        r"the row ([-\d, ]+) has the kept codes ([-\d, ]+), which are `([0-9a-f ]+)`, and the group codes (\d and \d), which are `([0-9a-f ]+)`",
        page,
    )
    codes = torch.tensor([[int(code) for code in row.split(", ")]], dtype=torch.int8)
    found, packed_groups = split(codes, torch.zeros(1, 1, dtype=torch.int8), (2, 4))
    assert found.flatten().tolist() == [int(code) for code in kept.split(", ")]
    assert bytes(pack(found, 4).numpy()).hex(" ") == kept_hex
    assert (int(packed_groups[0]) & 7, int(packed_groups[0]) >> 3) == tuple(map(int, groups.split(" and ")))
    assert bytes(packed_groups.numpy()).hex(" ") == groups_hex


def test_the_bytes_of_the_page_on_bitmasks() -> None:
    """Its table of bits per weight, and its example."""
    page = (DOCS / "artifact-format.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| (none|\d\d %) \| ([\d., ]+) \|$", page, re.MULTILINE)
    assert [row[0] for row in rows] == ["none", "50 %", "75 %", "90 %"]
    for zeros, per_weight in rows:
        num_kept = 8000 * (100 - int(zeros.removesuffix(" %").replace("none", "0"))) // 100
        for num_bits, expected in zip((8, 4, 3, 2, 1), per_weight.split(", "), strict=True):
            assert sum(code_sizes(8000, num_bits, UNSTRUCTURED, num_kept).values()) / 1000 == float(expected)
    ((row, bitmask, kept, kept_hex),) = re.findall(
        r"the row ([-\d, ]+) has the bitmask `([0-9a-f ]+)` and the kept codes ([-\d, ]+), which are `([0-9a-f ]+)`",
        page,
    )
    codes = torch.tensor([int(code) for code in row.split(", ")], dtype=torch.int8)
    assert bytes(pack_mask(codes != 0).numpy()).hex(" ") == bitmask
    assert codes[codes != 0].tolist() == [int(code) for code in kept.split(", ")]
    assert bytes(pack(codes[codes != 0], 4).numpy()).hex(" ") == kept_hex


def test_the_reader_takes_float32_scales(tmp_path: Path) -> None:
    """Scales below float16's normal numbers are stored as float32."""
    weight = rtn.quantize(
        torch.randn(3, 5, generator=torch.Generator().manual_seed(0)) * 1e-7,
        num_bits=3,
        granularity=Granularity("per_channel"),
    )
    assert weight.scale.dtype == torch.float32
    save_artifact(tmp_path / "q.safetensors", ArtifactContent("kws_crnn", {}, None, {}, {}, {"w": weight}, {}))
    (reader,) = blocks("artifact-format.md", "reader")
    run_without_asrcompress(reader + "\nnp.save('w', read_weight('q.safetensors', 'w'))\n", tmp_path)
    np.testing.assert_array_equal(np.load(tmp_path / "w.npy"), weight.dequantize().numpy())


@pytest.mark.parametrize("is_coded", [False, True])
@pytest.mark.parametrize("make", [make_sparse_floats, make_unstructured, make_sparse, make_zero_points])
def test_the_reader_takes_sparse_floats_bitmasks_and_entropy_coding(make: Any, is_coded: bool, tmp_path: Path) -> None:
    content = make()
    if is_coded:
        content = dataclasses.replace(content, recipe={"entropy_coding": "zstd"})
        many = torch.randn(64, 96, generator=torch.Generator().manual_seed(0))
        mask = keep_largest(many.abs(), 1, 4)
        content.sparse["many.weight"] = SparseWeight(torch.where(mask, many, 0.0).round(), mask, (64, 96), (1, 4))
    save_artifact(tmp_path / "q.safetensors", content)
    assert bool(read_record(tmp_path / "q.safetensors")[1].get("coded")) == is_coded
    weights = content.quantized | content.sparse
    (reader,) = blocks("artifact-format.md", "reader")
    save = f"\nfor name in {list(weights)}:\n    np.save(name, read_weight('q.safetensors', name))\n"
    run_without_asrcompress(reader + save, tmp_path)
    for name, weight in weights.items():
        found, expected = np.load(tmp_path / f"{name}.npy"), weight.dequantize().numpy()
        assert found.dtype == expected.dtype == np.float32
        np.testing.assert_array_equal(found, expected)


def test_the_reader_is_at_most_forty_lines() -> None:
    (reader,) = blocks("artifact-format.md", "reader")
    assert len([line for line in reader.splitlines() if line.strip()]) <= 40


def test_the_packed_bytes_of_the_format_page() -> None:
    rows = re.findall(
        r"^\| (\d) \| ([-\d, ]+) \| `([0-9a-f ]+)` \|$",
        (DOCS / "artifact-format.md").read_text(encoding="utf-8"),
        re.MULTILINE,
    )
    assert [row[0] for row in rows] == ["4", "3", "2", "1"]
    for num_bits, codes, expected in rows:
        packed = pack(torch.tensor([int(code) for code in codes.split(",")], dtype=torch.int8), int(num_bits))
        assert bytes(packed.numpy()).hex(" ") == expected


def test_the_format_page_names_every_key_of_the_json(tiny_kws: Path, tmp_path: Path) -> None:
    quantize(tiny_kws, tmp_path / "q.safetensors", QuantizeConfig())
    data = (tmp_path / "q.safetensors").read_bytes()
    length = int.from_bytes(data[:8], "little")
    assert (8 + length) % 8 == 0
    header = json.loads(data[8 : 8 + length])
    assert header["__metadata__"] == {"format": "asrcompress.v1"}
    begin, end = header["asrcompress.json"]["data_offsets"]
    record = json.loads(data[8 + length + begin : 8 + length + end])
    section = (
        (DOCS / "artifact-format.md").read_text(encoding="utf-8").split("## `asrcompress.json`")[1].split("\n## ")[0]
    )
    assert set(re.findall(r"^\| `(\w+)` \|", section, re.MULTILINE)) == set(record)


def test_the_python_page_runs_and_prints_what_it_says(samples_dir: Path, tmp_path: Path) -> None:
    code = "\n".join(blocks("python.md"))
    (tmp_path / "samples").symlink_to(samples_dir)
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    result = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, env=environment)
    assert result.returncode == 0, result.stderr
    expected = re.findall(r"^\s*print\(.*\)  # (.*)$", code, re.MULTILINE)
    assert len(expected) == len(re.findall(r"^\s*print\(", code, re.MULTILINE)) >= 8
    assert result.stdout.splitlines() == expected


def test_the_extension_pages_show_the_code_as_it_is() -> None:
    (shown,) = blocks("adding-a-quantizer.md", "rtn")
    assert shown == inspect.getsource(rtn.quantize)
    quantizers, families = (
        (DOCS / "adding-a-quantizer.md").read_text(encoding="utf-8"),
        (DOCS / "adding-a-model.md").read_text(encoding="utf-8"),
    )
    for name, module in QUANTIZERS.items():
        assert f'"{name}": "{module}"' in quantizers
    for name, module in SPARSIFIERS.items():
        assert f'"{name}": "{module}"' in quantizers
    for name, module in FAMILIES.items():
        assert f'"{name}": "{module}"' in families


@pytest.mark.parametrize("page", sorted(path.name for path in DOCS.glob("*.md")))
def test_links_between_pages_lead_somewhere(page: str) -> None:
    for target in re.findall(r"\]\((?!https?://)([^)#]+)", (DOCS / page).read_text(encoding="utf-8")):
        assert (DOCS / target).exists(), f"{page}: {target}"


def test_the_index_names_every_page() -> None:
    index = (DOCS / "index.md").read_text(encoding="utf-8")
    assert all(f"({path.name})" in index for path in DOCS.glob("*.md") if path.name != "index.md")


@pytest.mark.parametrize(
    "make", [make_content, make_sparse_floats, make_unstructured, make_sparse, make_zero_points, make_odd]
)
def test_the_reader_of_compact_files_gives_every_byte(make: Any, tmp_path: Path) -> None:
    torch.manual_seed(0)
    save_artifact(tmp_path / "q.safetensors", compacted(make()))
    shutil.copy(Path(asrcompress.__file__).parent / "compact" / "dictionary.txt", tmp_path)
    (reader,) = blocks("artifact-format.md", "compact reader")
    save = (
        "\nrecord, tensors = read_compact('q.safetensors')"
        "\nfound = {'record': record, 'tensors': {name: data.hex() for name, data in tensors.items()}}"
        "\nopen('found.json', 'w').write(json.dumps(found))\n"
    )
    run_without_asrcompress(reader + save, tmp_path)
    found = json.loads((tmp_path / "found.json").read_text())
    tensors, record = file_parts((tmp_path / "q.safetensors").read_bytes(), "q.safetensors")
    assert {key: found["record"][key] for key in record if key != "weights"} == {
        key: value for key, value in record.items() if key != "weights"
    }
    for name, entry in record["weights"].items():
        assert found["record"]["weights"][name].items() >= entry.items()
    assert found["tensors"].keys() == tensors.keys()
    for name, tensor in tensors.items():
        data = bytes(tensor.contiguous().reshape(-1).view(torch.uint8).tolist())
        assert bytes.fromhex(found["tensors"][name]) == data, name


def test_the_sizes_of_the_page_on_compact_files(tmp_path: Path, request: pytest.FixtureRequest) -> None:
    """Its table, but for zstd's column, which depends on its version: the same model made and packed again."""
    page = (DOCS / "artifact-format.md").read_text(encoding="utf-8").split("<!-- test: compact sizes -->")[1]
    rows = re.findall(r"^\| \**([^|*]+?)\** \| \**([\d,]+)\** \| \**([\d,]+)\** \|$", page, re.MULTILINE)
    said = {row[0]: [int(cell.replace(",", "")) for cell in row[1:]] for row in rows}
    plain, _, small, *parts = said.values()
    torch.manual_seed(0)
    torch.save(CRNN(2, 12).state_dict(), tmp_path / "small.pt")
    configs, calibrate = [QuantizeConfig(num_bits=4)], None
    with contextlib.suppress(pytest.skip.Exception):  # without the data the first column is checked alone
        calibrate = Calibrate(request.getfixturevalue("kws_dir") / "manifest.tsv")
        configs.append(QuantizeConfig(num_bits=4, level="integer-only"))
    for column, config in enumerate(configs):
        made = []
        for is_compact in (False, True):
            output = tmp_path / f"{column}.{is_compact}.safetensors"
            quantize(
                tmp_path / "small.pt",
                output,
                dataclasses.replace(config, compact=is_compact),
                calibrate=calibrate if config.is_static else None,
            )
            made.append(output.stat().st_size)
        assert made == [plain[column], small[column]]
        assert sum(part[column] for part in parts) == small[column]
        kinds: dict[str, int] = {}
        for entry in byte_ledger(output):
            kinds[entry["kind"]] = kinds.get(entry["kind"], 0) + entry["size_bytes"]
        header, words, digests, numbers, codes, scales, biases, end = (part[column] for part in parts)
        assert kinds == {
            "header": header,
            "json": words + digests + numbers,
            "weight_packed": codes,
            "weight_scale": scales,
            "float": biases,
        } | ({"coding": end} if end else {})
