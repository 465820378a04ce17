"""A keyword model's constants as the text of a C source and its header; what they do is in templates/."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from decimal import Decimal
from fractions import Fraction
from pathlib import Path
from string import Template

from asrcompress.exporters.c_curves import LN2, PARTS, WHOLE, Curve
from asrcompress.exporters.c_network import Network, Product, Scaling, offset_bytes, packed_codes

TEMPLATES = Path(__file__).with_name("templates")
WIDTH = 110  # of a line of numbers


@dataclass(frozen=True)
class Sources:
    """header, source: text. table_bytes: constants by what they are. state_bytes: of one stream."""

    header: str
    source: str
    table_bytes: dict[str, int]
    state_bytes: int


def c_name(stem: str) -> str:
    """A name in C for a file's name; not stdint, whose header the source includes."""
    name = re.sub(r"[^0-9a-z]+", "_", stem.lower()).strip("_") or "keyword"
    return name if name[0].isalpha() and name != "stdint" else f"kws_{name}"


def write_sources(network: Network, name: str, artifact: str, sha256: str, front_end: dict[str, int]) -> Sources:
    """The two files; names in them begin with `name`, the other arguments are for whoever reads them."""
    sizes = network.sizes
    hidden, num_layers = sizes["hidden_size"], sizes["num_layers"]
    frames, (step_bins, step_frames) = sizes["kernel_size"][1], sizes["stride"]
    num_features, window = network.num_features, network.window_steps
    gates_size, operand_size = max(3 * hidden, num_features), max(num_features, hidden)
    words = num_layers * hidden + window + gates_size + 3 * hidden + 4
    state_bytes = 2 * words + sizes["num_mels"] * frames + window * (hidden + 1) + operand_size
    tables = _Tables()
    values = {
        "name": name,
        "upper": name.upper(),
        "artifact": artifact.replace("*/", "* /"),
        "sha256": sha256,
        "state_bytes": state_bytes + state_bytes % 2,
        "num_mels": sizes["num_mels"],
        "kernel_frames": frames,
        "step_frames": step_frames,
        "kept_frames": max(frames - step_frames, 0),
        "num_bands": network.num_bands,
        "band_stride": step_bins * frames,
        "num_features": num_features,
        "num_layers": num_layers,
        "hidden": hidden,
        "window_steps": window,
        "gates_size": gates_size,
        "operand_size": operand_size,
        "input_low": network.input.code_min,
        "input_high": network.input.code_max,
        "input_zero": network.input.zero_point,
        "input_width": 8 if network.input.num_bits <= 8 else 16,
        "logit_zero": network.logits.zero_point,
        "whole_powers": _numbers(WHOLE, "u"),
        "part_powers": _numbers(PARTS, "u"),
        "ln2": LN2,
        **_fraction("input", network.input.scale),
        **_fraction("logit", network.logits.scale),
        **front_end,
    }
    values["data"] = _data(network, tables)
    tables.count("exponential", 8 * len(WHOLE))
    header, source = (Template((TEMPLATES / f"keyword.{suffix}").read_text()).substitute(values) for suffix in "hc")
    return Sources(header, source, tables.sizes, state_bytes + state_bytes % 2)


class _Tables:
    """Arrays of the source, and how many bytes they take."""

    def __init__(self) -> None:
        self.text: list[str] = []
        self.sizes: dict[str, int] = {}

    def count(self, kind: str, size_bytes: int) -> None:
        self.sizes[kind] = self.sizes.get(kind, 0) + size_bytes

    def array(self, kind: str, name: str, width: int, numbers: Iterable[int], *, signed: bool = True) -> str:
        """Write an array down; gives its name, or 0 where it is empty."""
        found = list(numbers)
        if not found:
            return "0"
        self.count(kind, len(found) * width // 8)
        self.text.append(f"static const {'' if signed else 'u'}int{width}_t {name}[] = {{{_numbers(found)}}};")
        return name

    def corrections(self, name: str, corrections: dict[int, int]) -> str:
        """Write corrections down; gives their name."""
        if not corrections:
            return "0"
        self.count("corrections", 8 * len(corrections))
        pairs = ", ".join(f"{{{knot}, {add}}}" for knot, add in corrections.items())
        self.text.append(f"static const correction {name}[] = {{{pairs}}};")
        return name


def _data(network: Network, tables: _Tables) -> str:
    constants = {
        name: f"static const scaling {name} = {_scaling(scaling)};"
        for name, scaling in (
            ("frame_scaling", network.frame),
            ("hidden_scaling", network.hidden),
            ("value_scaling", network.values),
            ("energy_input", network.energy_input),
            ("score_input", network.score_input),
            ("attended_scaling", network.attended),
            ("class_input", network.class_input),
        )
    }
    for name, product in (
        ("convolution", network.convolution),
        ("energy_hidden", network.energy_hidden),
        ("energy_score", network.energy_score),
        ("classes", network.classes),
    ):
        constants[name] = f"static const product {name} = {_product(product, name, tables)};"
    for name, curve in (("energy_tanh", network.energy_tanh), ("probability", network.probability)):
        constants[name] = f"static const curve {name} = {_curve(curve, name, tables)};"
    layers = []
    for index, layer in enumerate(network.layers):
        parts = (
            _scaling(layer.input),
            _product(layer.from_input, f"input_{index}", tables),
            _product(layer.from_hidden, f"hidden_{index}", tables),
            _curve(layer.sigmoid, f"sigmoid_{index}", tables),
            _curve(layer.tanh, f"tanh_{index}", tables),
        )
        layers.append("    {" + ",\n     ".join(parts) + f",\n     {layer.gates.code_min}, {layer.gates.code_max}}}")
    constants["layers"] = "static const layer layers[NUM_LAYERS] = {\n" + ",\n".join(layers) + "};"
    found = network.softmax_corrections
    fixes = tables.corrections("softmax_fixes", found)
    constants["softmax"] = (
        f"static const uint64_t softmax_rate = {network.softmax_rate}u;\n"
        f"static const correction *const softmax_corrections = {fixes};\n"
        f"#define NUM_SOFTMAX_CORRECTIONS {len(found)}\n#define WEIGHT_MAX {network.weight_max}"
    )
    return "\n".join([*tables.text, *constants.values()])


def _product(product: Product, name: str, tables: _Tables) -> str:
    low, width, offsets = offset_bytes(product)
    codes = tables.array("weights", f"{name}_codes", 8, packed_codes(product), signed=False)
    multipliers = tables.array("multipliers", f"{name}_multipliers", 32, product.multipliers)
    zero_points = tables.array("zero_points", f"{name}_zero_points", 8, product.zero_points)
    offset_name = tables.array("offsets", f"{name}_offsets", 8, offsets, signed=False)
    own = [int(len(numbers) > 1) for numbers in (product.multipliers, product.zero_points)]
    grid = product.output
    numbers = [
        _number(low), product.rows, product.groups, product.group_size, *own, int(product.zeros_apart), product.code_bits, product.code_step, width,
        product.offset_shift,
        product.shift, product.code_low, product.input_zero, grid.zero_point, grid.code_min, grid.code_max,
    ]  # fmt: skip
    return "{" + ", ".join(map(str, [codes, multipliers, zero_points, offset_name, *numbers])) + "}"


def _scaling(scaling: Scaling) -> str:
    numbers = (
        scaling.multiplier,
        scaling.old_zero,
        scaling.new_zero,
        scaling.low,
        scaling.high,
        scaling.shift,
    )
    return "{" + ", ".join(map(_number, numbers)) + "}"


def _curve(curve: Curve, name: str, tables: _Tables) -> str:
    fixes = tables.corrections(f"{name}_fixes", curve.corrections)
    numbers = [curve.mirror, curve.low, curve.high, len(curve.corrections), curve.segment_bits]
    start = f"{curve.rate}u, {curve.span}u, {_number(curve.base)}, {fixes}"
    return "{" + start + ", " + ", ".join(map(str, numbers)) + "}"


def _number(number: int) -> str:
    """A literal; what is beyond 32 bits has the type that holds it."""
    return str(number)


def _numbers(numbers: Iterable[int], suffix: str = "") -> str:
    """Numbers in lines."""
    lines, line = [], ""
    for number in numbers:
        word = f"{number}{suffix}, "
        if len(line) + len(word) > WIDTH:
            lines.append(line.rstrip())
            line = ""
        line += word
    return "\n    ".join([*lines, line.rstrip(", ")]) if lines else line.rstrip(", ")


def _fraction(name: str, scale: float) -> dict[str, int]:
    """A scale, which is a decimal number of few digits, as a fraction."""
    fraction = Fraction(Decimal(repr(scale)))
    return {f"{name}_numerator": fraction.numerator, f"{name}_denominator": fraction.denominator}
