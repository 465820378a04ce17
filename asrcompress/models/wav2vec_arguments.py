"""Which arguments decide what Fairseq builds for wav2vec 2.0 and HuBERT with CTC, and which values they may have.

Fairseq evaluates `conv_feature_layers` as Python. What a checkpoint or an artifact says is therefore read as a
grammar of its own and handed on as numbers; nothing else of its text gets to Fairseq. Arguments of pre-training and of
training alone are left out; those that would build another model are refused by name.
"""

from __future__ import annotations

import ast
import re
from typing import Any

from asrcompress.errors import AsrCompressError

LARGEST = 1_000_000
MAX_LAYERS = 100
DEFAULT_CONV_LAYERS = [[512, 10, 5], *[[512, 3, 2]] * 4, *[[512, 2, 2]] * 2]  # of the published models
SIZES = (
    "encoder_layers", "encoder_embed_dim", "encoder_ffn_embed_dim", "encoder_attention_heads", "conv_pos", "conv_pos_groups",
)  # fmt: skip
SWITCHES = ("layer_norm_first", "conv_bias")
CHOICES = {
    "activation_fn": ("relu", "gelu", "gelu_fast", "gelu_accurate", "tanh", "linear"),
    "extractor_mode": ("default", "layer_norm"),
}
# Arguments that only one of the two has.
OWN_SIZES = {"wav2vec2": ("pos_conv_depth", "crop_seq_to_multiple"), "hubert": ()}
OWN_SWITCHES = {"wav2vec2": (), "hubert": ("conv_pos_batch_norm",)}
# Values other than these build modules that are not here: quantized input, conformer layers, adapters.
REFUSED = {"quantize_input": (False, 0), "layer_type": ("transformer",)}
LAYERS_TEXT = re.compile(r"[\d\s()\[\],+*]{1,2000}")


def encoder_arguments(where: str, model: dict[str, Any], name: str) -> dict[str, Any]:
    """The arguments of the encoder inside a fine-tuned model's configuration, as Fairseq nests them in `w2v_args`.

    Args:
        where: the file, for messages.
        model: the fine-tuned model's own settings.
        name: what the encoder must be, "wav2vec2" or "hubert".

    Raises:
        AsrCompressError: there is none, or of another kind, or with arguments that are not supported.
    """
    nested = model.get("w2v_args")
    if not isinstance(nested, dict):
        raise AsrCompressError(
            f"{where}: holds no w2v_args, the configuration of its encoder; give the checkpoint that fine-tuning wrote"
        )
    given = nested["model"] if isinstance(nested.get("model"), dict) else nested  # else a Namespace of older files
    found = given.get("_name") or given.get("arch")
    if found != name:
        raise AsrCompressError(f"{where}: its encoder is a {str(found)[:40]!r}; here {name} is supported")
    # Fine-tuning hands its own layer type on to the encoder.
    layer_type = model.get("layer_type") or given.get("layer_type")
    return check_arguments(where, given | {"layer_type": layer_type}, name)


def check_arguments(where: str, given: dict[str, Any], name: str) -> dict[str, Any]:
    """The arguments of `given` that decide what is built, each of the type and range it must have.

    `conv_feature_layers` may be Fairseq's text or a list; it leaves as a list of [width, kernel, stride].

    Raises:
        AsrCompressError: a value of another type or out of range, or an argument that is not supported; names `where`.
    """
    for argument, allowed in REFUSED.items():
        value = given.get(argument)
        if value is not None and value not in allowed:
            raise AsrCompressError(f"{where}: {argument} is {str(value)[:40]!r}, which is not supported for {name}")
    sizes, switches = SIZES + OWN_SIZES[name], SWITCHES + OWN_SWITCHES[name]
    checked: dict[str, Any] = {"encoder_embed_dim": 768}  # Fairseq's default, which it reads before it fills it in
    for argument in (*sizes, *switches, *CHOICES):
        value = given.get(argument)
        if value is None:
            continue
        if argument in sizes:
            fits = type(value) is int and 1 <= value <= LARGEST
        elif argument in switches:
            fits = type(value) in (bool, int) and value in (0, 1)
        else:
            fits = value in CHOICES[argument]
        if not fits:
            raise AsrCompressError(
                f"{where}: the argument {argument} has the value {_shown(value)}, which no {name} has"
            )
        checked[argument] = bool(value) if argument in switches else value
    layers = given.get("conv_feature_layers")
    checked["conv_feature_layers"] = DEFAULT_CONV_LAYERS if layers is None else _check_layers(where, layers)
    return checked


def _check_layers(where: str, given: Any) -> list[list[int]]:
    try:
        layers = parse_conv_layers(given) if isinstance(given, str) else given
        if not isinstance(layers, list) or not 1 <= len(layers) <= MAX_LAYERS:
            raise ValueError
        for layer in layers:
            if not isinstance(layer, list) or len(layer) != 3:
                raise ValueError
            if not all(type(size) is int and 1 <= size <= LARGEST for size in layer):
                raise ValueError
    except ValueError:
        raise AsrCompressError(
            f"{where}: the argument conv_feature_layers has the value {_shown(given)}; "
            "a list such as [(512, 10, 5)] + [(512, 3, 2)] * 4 is due"
        ) from None
    return [list(layer) for layer in layers]


def parse_conv_layers(text: str) -> list[list[int]]:
    """Fairseq's layer text, lists of tuples of integers with `+` and `* integer`, read without evaluating it.

    Raises:
        ValueError: it is anything else, or repeats beyond any real model.
    """
    if not LAYERS_TEXT.fullmatch(text):
        raise ValueError("holds other characters than a list of numbers")
    try:
        return _layers(ast.parse(text.strip(), mode="eval").body)
    except (SyntaxError, RecursionError, MemoryError) as error:
        raise ValueError("is no list of layers") from error


def _layers(node: ast.expr) -> list[list[int]]:
    if isinstance(node, ast.List):
        return [_tuple(item) for item in node.elts]
    if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Add):
        left, right = _layers(node.left), _layers(node.right)
    elif isinstance(node, ast.BinOp) and isinstance(node.op, ast.Mult):
        left, times = _layers(node.left), _integer(node.right)
        if len(left) * times > MAX_LAYERS:
            raise ValueError("has too many layers")
        left, right = left * times, []
    else:
        raise ValueError("is no list of layers")
    if len(left) + len(right) > MAX_LAYERS:
        raise ValueError("has too many layers")
    return left + right


def _tuple(node: ast.expr) -> list[int]:
    if not isinstance(node, (ast.Tuple, ast.List)):
        raise ValueError("a layer is no (width, kernel, stride)")
    return [_integer(item) for item in node.elts]


def _integer(node: ast.expr) -> int:
    if not isinstance(node, ast.Constant) or type(node.value) is not int:
        raise ValueError("holds something else than integers")
    return node.value


def _shown(value: Any) -> str:
    return repr(str(value)[:60])
