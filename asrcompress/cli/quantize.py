"""`asrcompress quantize`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Optional

import typer

from asrcompress.cli.options import DataDir, Force, Json, ModelArgument, Output, Trust
from asrcompress.cli.output import emit, emit_json, format_bytes, path_from_stdin, progress_bar, say
from asrcompress.errors import AsrCompressError

RECIPE_KEYS = ("bits", "granularity", "activations", "method", "include", "exclude")


def quantize(
    model: ModelArgument = None,
    output: Output = None,
    bits: Annotated[
        Optional[int], typer.Option(help="Bits per weight: 8, 4, 3 or 2. [default: 8]", show_default=False)
    ] = None,
    granularity: Annotated[
        Optional[str],
        typer.Option(
            help="Weights that share a scale: per_channel, per_group:SIZE or per_tensor. [default: per_channel]",
            show_default=False,
        ),
    ] = None,
    activations: Annotated[
        Optional[str],
        typer.Option(
            help="none: compute in float. int8: integer products, int32 sums. [default: none]", show_default=False
        ),
    ] = None,
    method: Annotated[
        Optional[str],
        typer.Option(help="How codes are found: rtn (round to nearest). [default: rtn]", show_default=False),
    ] = None,
    include: Annotated[
        Optional[list[str]],
        typer.Option(help="Glob over weight names to pack; may be repeated. [default: *]", show_default=False),
    ] = None,
    exclude: Annotated[
        Optional[list[str]],
        typer.Option(help="Glob over weight names to leave in float; may be repeated.", show_default=False),
    ] = None,
    config: Annotated[
        Optional[Path], typer.Option("--config", help="Recipe (.toml) with these options; the command line goes first.")
    ] = None,
    data_dir: DataDir = None,
    trust_checkpoint: Trust = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="List what would be packed; write nothing.")] = False,
    force: Force = False,
    as_json: Json = False,
) -> None:
    """Pack a model's weights as low-bit integers into one .safetensors file, with a JSON sidecar beside it.

    \b
    Example:
      asrcompress quantize samples/asr/checkpoint_best.pt --bits 4 --activations int8 -o small.safetensors
    """
    path = path_from_stdin("model") if model in (None, "-") else model
    options = _options(
        config,
        bits=bits,
        granularity=granularity,
        activations=activations,
        method=method,
        include=include,
        exclude=exclude,
    )
    from asrcompress.cli.trust import warn_of_trust
    from asrcompress.ops.quantize import QuantizeConfig
    from asrcompress.ops.quantize import plan as plan_quantize
    from asrcompress.ops.quantize import quantize as run

    quantize_config = QuantizeConfig(**options)
    if trust_checkpoint:
        warn_of_trust(path)
    if dry_run:
        chosen, left = plan_quantize(path, quantize_config, data_dir=data_dir, trust=trust_checkpoint)
        emit("\n".join([f"pack {name}" for name in chosen] + [f"keep {name}" for name in left]))
        return
    if output is None:
        raise AsrCompressError("-o is missing: name the .safetensors file to write")
    result = run(
        path,
        output,
        quantize_config,
        data_dir=data_dir,
        trust=trust_checkpoint,
        force=force,
        progress=progress_bar("quantize"),
    )
    metrics, parent = result.record["metrics"], result.record["parent"]
    say(
        f"{result.path}: {format_bytes(metrics['size_bytes'])}, {metrics['model_size_ratio']:.2%} of the model's "
        f"{format_bytes(parent['model_size_bytes'])} and {metrics['size_ratio']:.2%} of the file {parent['file']}"
        + (
            f" ({format_bytes(parent['optimizer_size_bytes'])} of optimizer state dropped)"
            if parent["optimizer_size_bytes"]
            else ""
        )
    )
    if result.removed:
        say(f"removed what described the file before: {', '.join(path.name for path in result.removed)}")
    if metrics["model_size_ratio"] >= 1:
        say(f"note: {result.path} is not smaller than what it was made from; quantize the float checkpoint instead")
    if as_json:
        emit_json(result.record)
    else:
        emit(str(result.path))


def _options(config: Path | None, **given: Any) -> dict[str, Any]:
    """The recipe's options under those of the command line, in QuantizeConfig's words."""
    options = _read_recipe(config) if config else {}
    options |= {name: value for name, value in given.items() if value not in (None, [])}
    if "bits" in options:
        options["num_bits"] = options.pop("bits")
    return {name: tuple(value) if isinstance(value, list) else value for name, value in options.items()}


def _read_recipe(path: Path) -> dict[str, Any]:
    import tomllib

    try:
        recipe = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise AsrCompressError(f"{path}: the recipe could not be read: {error.strerror}") from error
    except ValueError as error:
        raise AsrCompressError(f"{path}: is not TOML ({error}); see samples/recipes") from error
    types: dict[str, type] = {"bits": int, "include": list, "exclude": list}
    for key, value in recipe.items():
        if key not in RECIPE_KEYS:
            raise AsrCompressError(f"{path}: '{key}' is not an option of a recipe; use {', '.join(RECIPE_KEYS)}")
        wanted = types.get(key, str)
        if type(value) is not wanted or (isinstance(value, list) and not all(isinstance(item, str) for item in value)):
            raise AsrCompressError(
                f"{path}: '{key}' must be {'a list of strings' if wanted is list else wanted.__name__}"
            )
    return recipe
