"""The last step of every command that makes an artifact: the file, then the sidecar that describes what is on disk.

Sidecars of a file that was replaced go with it. On any failure neither the artifact nor its sidecar is left behind.
Does not know how the content came about; quantize.py and sparsify.py do.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from asrcompress.artifact import ArtifactContent, save_artifact
from asrcompress.artifact_file import byte_ledger
from asrcompress.artifact_size import size_bytes_without_coding
from asrcompress.compact.layout import MOST_PARAMS
from asrcompress.errors import AsrCompressError
from asrcompress.files import check_outputs, sha256_file, write_json
from asrcompress.ops.audit import audit_artifact, audit_file
from asrcompress.ops.load import (
    Source,
    build_model,
    count_params,
    describe,
    environment,
    open_source,
    require_model_file,
)
from asrcompress.ops.memory import MEMORY_BUDGET_BYTES, fits_in_memory, run_size_bytes
from asrcompress.sidecar import SUFFIXES, build, sidecar_path


@dataclass(frozen=True)
class WrittenArtifact:
    """What was written, the sidecar's record, and the sidecars of a replaced artifact that went with it."""

    path: Path
    sidecar: Path
    record: dict[str, Any]
    removed: tuple[Path, ...] = ()


def check_artifact_output(path: Path, output: Path, *, force: bool) -> None:
    """Find, before any work, what would stop `output` and its sidecar from being written.

    Raises:
        AsrCompressError: `path` is no model file; `output` is not named .safetensors, exists without `force`, is the
            input, or cannot be created.
    """
    require_model_file(path)
    if output.suffix != ".safetensors":
        raise AsrCompressError(
            f"-o {output}: the artifact is a safetensors file; give a name that ends in .safetensors"
        )
    check_outputs([output, sidecar_path(output, "artifact")], [path], force=force)


def check_compact(
    source: Source, *, is_compact: bool, name: str = "", other: str = "give --entropy-coding zstd"
) -> None:
    """Find, before any work, that a model is too large to be written in the compact layout, where that is asked for.

    Args:
        source: the model.
        is_compact: whether it is asked for.
        name: of the model in the message, where it is not its file's.
        other: what else there is to do, for the message.

    Raises:
        AsrCompressError: it is.
    """
    if is_compact and (num_params := count_params(source)) > MOST_PARAMS:
        raise AsrCompressError(
            f"{name or source.path}: has {num_params:,} parameters; --compact is for up to {MOST_PARAMS:,}, where names and sizes "
            f"take much of the file; leave it out, or {other}"
        )


def write_artifact(
    output: Path,
    content: ArtifactContent,
    source: Source,
    recipe: dict[str, Any],
    *,
    force: bool = False,
    check_size: Callable[[int], None] | None = None,
    memory_budget_bytes: int = MEMORY_BUDGET_BYTES,
    training: Callable[[Source], dict[str, Any]] | None = None,
) -> WrittenArtifact:
    """Write `content`, made from `source`, to `output` and describe it in `<output>.json`.

    Args:
        output: the artifact.
        content: its weights and floats are asked for once, one at a time, so they may be made when asked for.
        source: the file that it was made from.
        recipe: what the sidecar records, where bytes do not count; what `auto` picked is added.
        force: replace what is there.
        check_size: is given the artifact's size in bytes before it has its name, and may raise.
        memory_budget_bytes: a model that needs more to be built and run is audited without a run.
        training: is given the file as it is read back, and says what the sidecar records of how it was trained.

    Raises:
        AsrCompressError: the source's file is not what it was any more, or something cannot be written. Neither file is
            left then.
    """
    sidecar = sidecar_path(output, "artifact")
    replaced = sha256_file(output) if output.is_file() and _sidecars_of(output) else None
    parent: dict[str, Any] = {}

    def check(size_bytes: int) -> None:
        if check_size:
            check_size(size_bytes)
        parent.update(describe(source, num_params=0))  # all of it has been read: is it still what was read?

    entries = save_artifact(output, content, force=force, check_size=check)
    picked = Counter(entry["method"] for entry in entries.values() if entry.get("method"))
    if picked:
        recipe = recipe | {"picked": dict(sorted(picked.items()))}
    try:
        record = _record(output, parent, recipe, memory_budget_bytes, training)
        removed = () if record["model"]["sha256"] == replaced or not force else _remove_sidecars(output)
        write_json(sidecar, record, force=force)
    except BaseException:  # an interrupt included: no artifact is left without its sidecar
        output.unlink(missing_ok=True)
        raise
    return WrittenArtifact(output, sidecar, record, tuple(path for path in removed if path != sidecar))


def _remove_sidecars(output: Path) -> tuple[Path, ...]:
    """Remove what was measured on the file that lay at `output` before."""
    stale = _sidecars_of(output)
    for path in stale:
        try:
            path.unlink()
        except OSError as error:
            raise AsrCompressError(
                f"{path}: describes the file that was replaced and could not be removed: {error.strerror or error}"
            ) from error
    return stale


def _sidecars_of(output: Path) -> tuple[Path, ...]:
    """What lies beside an artifact and tells of it."""
    names = [*(output.name + suffix for suffix in SUFFIXES.values()), f"{output.name}.eval.utterances.jsonl"]
    return tuple(path for name in names if (path := output.with_name(name)).is_file())


def _record(
    output: Path,
    parent: dict[str, Any],
    recipe: dict[str, Any],
    memory_budget_bytes: int,
    training: Callable[[Source], dict[str, Any]] | None,
) -> dict[str, Any]:
    written = open_source(output, mapped=True)  # what is on disk is what is described
    honesty = _honesty(written, memory_budget_bytes)  # while a large file's sha256 is taken
    model = describe(written, count_params(written))
    entries = byte_ledger(output)
    parent = {key: parent[key] for key in ("file", "sha256", "size_bytes", "model_size_bytes", "optimizer_size_bytes")}
    metrics = {
        "size_bytes": model["size_bytes"],
        "model_size_bytes": model["model_size_bytes"],
        "num_params": model["num_params"],
        "size_ratio": model["size_bytes"] / parent["size_bytes"],
        "model_size_ratio": model["model_size_bytes"] / parent["model_size_bytes"],
    }
    for option in ("entropy_coding", "compact"):
        if written.content and written.content.recipe.get(option):
            metrics[f"size_bytes_without_{option}"] = size_bytes_without_coding(output)
    ledger = {"entries": entries, "size_bytes": sum(entry["size_bytes"] for entry in entries)}
    more = {"training": training(written)} if training else {}
    return build(
        "artifact",
        model=model,
        metrics=metrics,
        environment=environment("cpu"),
        recipe=recipe,
        parent=parent,
        ledger=ledger,
        **more,
        honesty=honesty,
    )


def _honesty(written: Source, memory_budget_bytes: int) -> dict[str, Any]:
    if fits_in_memory(written, memory_budget_bytes):
        return audit_artifact(written, build_model(written))
    needed, budget = (f"{size / 2**30:.1f} GiB" for size in (run_size_bytes(written), memory_budget_bytes))
    return audit_file(
        written,
        f"the model was not run: that takes about {needed}, the budget is {budget}; asrcompress analyze runs it, on a "
        "machine with that much memory",
    )
