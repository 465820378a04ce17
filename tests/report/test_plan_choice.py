"""A plan as the planner writes it is marked in the pictures; one of another model or table is refused."""

from __future__ import annotations

from pathlib import Path

import pytest

from asrcompress.errors import AsrCompressError
from asrcompress.report.plan_choice import read_choice
from asrcompress.report.sensitivity_rows import read_sensitivity
from tests.fixtures.sensitivity_records import keyword_record

SHA256 = keyword_record()["model"]["sha256"]


@pytest.fixture
def found():
    return read_sensitivity(keyword_record())


def test_what_the_planner_writes_is_read(found, tmp_path):
    from asrcompress.ops.plan_file import PlanFacts, plan_config, plan_text, write_plan
    from asrcompress.ops.recipe import QuantizeConfig
    from asrcompress.ops.units import Option

    weights = [unit.name for unit in found.units if unit.target == "weight"]
    options = [
        Option(4),
        Option(2, (2, 4)),
        None,
        Option(8),
        Option(3, (1, 4)),
        Option(4),
        Option(2),
        Option(4, (2, 4)),
    ]
    choice = dict(zip(weights, options, strict=True))
    facts = PlanFacts("crnn_happy.pt", SHA256, 281772, 40000, 41000)
    write_plan(tmp_path / "p.toml", plan_text(plan_config(QuantizeConfig(), choice), facts))
    chosen = read_choice(tmp_path / "p.toml", found)
    assert chosen == {name: None if option is None else str(option) for name, option in choice.items()}


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("[[rules]]\nmodules = 'conv'\nbits = 4\n", r"has no \[plan\]"),
        ("plan = 3\n", r"has no \[plan\]"),
        (f"rules = [1]\n[plan]\nmodel_sha256 = '{SHA256}'\n", r"has no \[plan\]"),
        ("[plan]\nmodel_sha256 = 'abc'\n", "another file than crnn_happy.pt"),
        (f"[plan]\nmodel_sha256 = '{SHA256}'\n[[rules]]\nmodules = ['conv.0.weight']\nbits = 7\n", "int7, which this table lacks"),
        ("plan = ", "is not TOML"),
    ],
)  # fmt: skip
def test_what_is_not_a_plan_of_this_table_is_one_line(found, tmp_path, text, said):
    path = Path(tmp_path / "p.toml")
    path.write_text(text)
    with pytest.raises(AsrCompressError, match=f"p.toml: .*{said}") as caught:
        read_choice(path, found)
    assert "\n" not in str(caught.value)


def test_a_later_rule_wins_and_activations_are_left_out(found, tmp_path):
    rules = "".join(f"[[rules]]\nmodules = {m!r}\n{rest}\n" for m, rest in (
        ("*", "bits = 8"), ("gru.weight_ih_l0", "bits = 4\npattern = '2:4'"), ("gru.weight_hh_l0", "level = 'float'"),
    ))  # fmt: skip
    (tmp_path / "p.toml").write_text(f"[plan]\nmodel_sha256 = '{SHA256}'\n{rules}")
    chosen = read_choice(tmp_path / "p.toml", found)
    assert chosen["gru.weight_ih_l0"] == "int4+2:4"
    assert chosen["gru.weight_hh_l0"] is None
    assert chosen["conv.0.weight"] == "int8"
    assert "attention:softmax" not in chosen
