"""Which arguments decide what Fairseq builds for its VGG transformers, and which values they may have.

Fairseq evaluates the layers' configurations, such as "[(64, 3, 2, 2, True)] * 2", as Python. Here they are
parsed: literals, repetition and concatenation of tuples, nothing else. Each layer is checked and what
Fairseq gets to evaluate is written anew from the numbers. Arguments that are not named here never reach it.
"""

from __future__ import annotations

import ast
import math
from collections.abc import Callable
from typing import Any

from asrcompress.errors import AsrCompressError

LARGEST = 1_000_000
MAX_LAYERS = 200
MAX_LENGTH = 20_000  # characters of a configuration
MAX_DEPTH = 30  # of nesting
Check = Callable[[Any], bool]


def _whole(low: int, high: int) -> Check:
    return lambda value: type(value) is int and low <= value <= high


def _odd(value: Any) -> bool:
    return type(value) is int and 1 <= value <= 99 and value % 2 == 1


def _switch(value: Any) -> bool:
    return type(value) in (bool, int) and value in (0, 1)


def _share(value: Any) -> bool:
    return type(value) in (int, float) and 0 <= value <= 1


SIZE = _whole(1, LARGEST)
TRANSFORMER_LAYER = {
    "input_dim": SIZE, "num_heads": SIZE, "ffn_dim": SIZE, "normalize_before": _switch, "dropout": _share,
    "attention_dropout": _share, "relu_dropout": _share,
}  # fmt: skip
LAYERS: dict[str, dict[str, Check]] = {
    "vggblock_enc_config": {
        "out_channels": SIZE, "conv_kernel_size": _odd, "pooling_kernel_size": _whole(1, 99),
        "num_conv_layers": _whole(1, MAX_LAYERS), "use_layer_norm": _switch,
    },
    "transformer_enc_config": TRANSFORMER_LAYER,
    "transformer_dec_config": TRANSFORMER_LAYER,
    "conv_dec_config": {"out_channels": SIZE, "conv_kernel_size": _whole(1, 99), "use_layer_norm": _switch},
}  # fmt: skip
SIZES = ("input_feat_per_channel", "in_channels", "enc_output_dim")
DECODER = ("transformer_dec_config", "conv_dec_config", "tgt_embed_dim")
CONTEXT = ("transformer_context", "transformer_sampling")  # of the encoder-only model: None or whole numbers


def check_arguments(where: str, given: dict[str, Any], family: str) -> dict[str, Any]:
    """The arguments of `given` that decide what is built, each of the type and range it must have.

    Args:
        where: the file, or what else holds the arguments, for messages.
        given: argument names to values, as Fairseq stores them: layer configurations as Python expressions.
        family: `asr_vggtransformer` or `asr_vggtransformer_encoder`.

    Returns:
        Numbers, and layer configurations written anew as literals.

    Raises:
        AsrCompressError: a value of another type or out of range; names `where`.
    """
    only = CONTEXT if family == "asr_vggtransformer_encoder" else DECODER
    checked: dict[str, Any] = {}
    for name in (*SIZES, "vggblock_enc_config", "transformer_enc_config", *only):
        value = given.get(name)
        if value is None:
            continue
        try:
            checked[name] = _checked(name, value)
        except ValueError as error:
            raise AsrCompressError(
                f"{where}: the argument {name} has the value {str(value)[:60]!r}, which no {family} has ({error})"
            ) from error
    if "transformer_dec_config" in checked:
        _check_widths(where, checked)
    return checked


def _check_widths(where: str, checked: dict[str, Any]) -> None:
    """Fairseq's decoder layers take the encoder's output in their own width."""
    for width, *_ in ast.literal_eval(checked["transformer_dec_config"]):
        if width != checked.get("enc_output_dim", width):
            raise AsrCompressError(
                f"{where}: its decoder layers are {width} wide and its encoder's output is {checked['enc_output_dim']}, which "
                "Fairseq itself cannot run; give the arguments that the model was trained with"
            )


def _checked(name: str, value: Any) -> Any:
    """The value itself, or a configuration as a literal. Raises ValueError."""
    if name in SIZES or name == "tgt_embed_dim":
        if not SIZE(value):
            raise ValueError(f"use a whole number from 1 to {LARGEST}")
        return value
    config = parse(value)
    if name in CONTEXT:
        low = -LARGEST if name == "transformer_context" else 1  # below 0: no limit on that side
        if config is not None and not (isinstance(config, tuple) and all(map(_whole(low, LARGEST), config))):
            raise ValueError("use None or whole numbers")
        return repr(config)
    if not isinstance(config, tuple) or not 1 <= len(config) <= MAX_LAYERS:
        raise ValueError(f"use 1 to {MAX_LAYERS} layers")
    layers = tuple(_layer(layer, LAYERS[name]) for layer in config)
    return repr(layers)


def _layer(layer: Any, fields: dict[str, Check]) -> tuple[Any, ...]:
    """One layer's numbers, in order; switches become bools."""
    if not isinstance(layer, tuple) or len(layer) != len(fields):
        raise ValueError(f"a layer is ({', '.join(fields)})")
    for (field, fits), value in zip(fields.items(), layer, strict=True):
        if not fits(value):
            raise ValueError(f"{field} is {str(value)[:40]}")
    return tuple(bool(v) if fits is _switch else v for v, fits in zip(layer, fields.values(), strict=True))


def parse(expression: Any) -> Any:
    """The value of an expression of literals, tuples, lists (read as tuples), `* number` and `+`.

    Raises:
        ValueError: anything else, a call or a name included, or a value beyond any real model's.
    """
    if not isinstance(expression, str) or len(expression) > MAX_LENGTH:
        raise ValueError("is not an expression of a real model's length")
    try:
        tree = ast.parse(expression.strip(), mode="eval")
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        raise ValueError("is not a Python expression") from error
    return _value(tree.body, 0)


def _value(node: ast.expr, depth: int) -> Any:
    if depth > MAX_DEPTH:
        raise ValueError("is nested without end")
    if isinstance(node, ast.Constant) and type(node.value) in (int, float, bool, type(None)):
        if isinstance(node.value, float) and not math.isfinite(node.value):
            raise ValueError("holds a number that is not finite")
        return node.value
    if isinstance(node, (ast.Tuple, ast.List)):
        return tuple(_value(item, depth + 1) for item in node.elts)
    if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.USub):
        number = _value(node.operand, depth + 1)
        if type(number) in (int, float):
            return -number
    if isinstance(node, ast.BinOp):
        left, right = _value(node.left, depth + 1), _value(node.right, depth + 1)
        if isinstance(node.op, ast.Mult) and type(left) is int:
            left, right = right, left
        if isinstance(node.op, ast.Mult) and isinstance(left, tuple) and type(right) is int:
            if len(left) * max(right, 0) > MAX_LAYERS:
                raise ValueError(f"use 1 to {MAX_LAYERS} layers")
            return left * right
        if isinstance(node.op, ast.Add) and isinstance(left, tuple) and isinstance(right, tuple):
            return left + right
    raise ValueError("holds more than numbers, tuples, * and +")
