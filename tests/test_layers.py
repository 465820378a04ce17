"""Imports point one way: errors < files ... < models, modules ... < exporters < ops < cli. Read from the source, not at run time."""

from __future__ import annotations

import ast
from pathlib import Path

import asrcompress

PACKAGE = Path(asrcompress.__file__).parent
# A part may import from parts of a lower level, and from its own level where listed in SAME.
LEVELS = {
    "errors": 0, "kernels": 1,
    "files": 1, "file_hash": 1, "integers": 1, "grids": 1, "packing": 1, "gather": 1, "ahead": 1, "patterns": 1, "sidecar": 1, "gate": 1,
    "checkpoints": 2, "models": 2, "modules": 2, "quantizers": 2, "sparsifiers": 2, "metrics": 2, "artifact": 2, "report": 2, "speech": 2,
    "artifact_file": 2, "artifact_size": 2, "mapped_artifact": 2, "stored_weight": 2, "sparse": 1, "entropy": 1, "mapped": 1, "tensor_file": 1,
    "group_codes": 1, "compact": 2, "training": 2, "exporters": 3, "ops": 4,
    "cli": 5,
}  # fmt: skip
SAME = {
    ("sidecar", "files"),
    ("gate", "sidecar"),
    ("gate", "files"),
    ("file_hash", "files"),
    ("models", "checkpoints"),
    ("patterns", "packing"),
    ("patterns", "gather"),
    ("group_codes", "patterns"),
    ("group_codes", "packing"),
    ("group_codes", "gather"),
    ("grids", "gather"),
    ("sparse", "patterns"),
    ("entropy", "tensor_file"),
    ("artifact", "stored_weight"),
    ("artifact", "artifact_file"),
    ("artifact", "compact"),
    ("artifact_file", "compact"),
    ("artifact_file", "stored_weight"),
    ("artifact_size", "artifact_file"),
    ("mapped_artifact", "artifact_file"),
    ("artifact_size", "artifact"),
    ("mapped_artifact", "artifact"),
    ("mapped_artifact", "stored_weight"),
    ("artifact_size", "stored_weight"),
    ("metrics", "stored_weight"),
    ("entropy", "tensor_file"),
    ("sparsifiers", "quantizers"),
    ("training", "quantizers"),
}
LIGHT = ("errors", "files", "sidecar", "gate", "report", "cli")
HEAVY = {
    "torch",
    "numpy",
    "fairseq",
    "torchaudio",
    "jiwer",
    "thop",
    "soundfile",
    "scipy",
    "safetensors",
    "sentencepiece",
    "yaml",
}


def imports(path: Path) -> list[tuple[str, bool]]:
    """(module name, at module level) of every import in a file."""
    tree = ast.parse(path.read_text())
    top = set(map(id, tree.body))
    found = []
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.module:
            found += [(f"{node.module}.{alias.name}", id(node) in top) for alias in node.names]
        elif isinstance(node, ast.Import):
            found += [(alias.name, id(node) in top) for alias in node.names]
    return found


def part(path: Path) -> str:
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def test_imports_point_one_way() -> None:
    wrong = []
    for path in sorted(PACKAGE.rglob("*.py")):
        own = part(path)
        if own in ("__init__", "__main__"):
            continue
        for name, _ in imports(path):
            if not name.startswith("asrcompress."):
                continue
            other = name.split(".")[1]
            if other in ("__version__", own, "AsrCompressError"):
                continue
            if LEVELS[other] >= LEVELS[own] and (own, other) not in SAME:
                wrong.append(f"{path.relative_to(PACKAGE)} imports {name}")
    assert wrong == []


def test_the_command_line_imports_nothing_heavy_at_module_level() -> None:
    wrong = [
        f"{path.relative_to(PACKAGE)} imports {name}"
        for path in sorted(PACKAGE.rglob("*.py"))
        if part(path) in LIGHT
        for name, top in imports(path)
        if top and name.split(".")[0] in HEAVY
    ]
    assert wrong == []


def test_fairseq_is_imported_in_files_of_its_name_and_only_when_needed() -> None:
    found = {
        (path.relative_to(PACKAGE).as_posix(), top)
        for path in PACKAGE.rglob("*.py")
        for name, top in imports(path)
        if name.split(".")[0] in ("fairseq", "examples")
    }
    assert ("models/fairseq_adapter.py", False) in found
    assert [file for file, top in found if top or not file.startswith("models/fairseq_")] == []


def test_only_output_prints() -> None:
    prints = {
        str(path.relative_to(PACKAGE))
        for path in PACKAGE.rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "print"
    }
    assert prints <= {"cli/output.py"}


def test_nothing_is_pickled_or_loaded_with_trust_by_default() -> None:
    calls = []
    for path in PACKAGE.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Call) and ast.unparse(node.func) in (
                "torch.save",
                "pickle.dump",
                "pickle.dumps",
                "pickle.load",
                "pickle.loads",
            ):
                calls.append(f"{path.relative_to(PACKAGE)}: {ast.unparse(node)}")
    # Fairseq's format is a pickle: torch.save of tensors and plain containers, which its tests read with weights_only.
    assert [call.partition(": ")[::2] for call in calls] == [
        (
            "exporters/fairseq.py",
            'torch.save(state, files.path(main, "Fairseq\'s checkpoint, weights dequantized to float32"))',
        )
    ]
