"""Names of a student's tensors and of the teacher's that they are copied from."""

from __future__ import annotations

from asrcompress.ops.student_layers import counterpart, layer_record, paired_stacks, unit

TEACHER = [
    "encoder.conv_layers.1.weight",
    "encoder.transformer_layers.0.weight",  # what brings the convolutions' output to the layers' width
    *(f"encoder.transformer_layers.{i}.self_attn.q_proj.weight" for i in (1, 2, 3, 4)),
    "encoder.transformer_layers.5.weight",
    "encoder.transformer_layers.6.bias",
]
STUDENT = [
    "encoder.conv_layers.1.weight",
    "encoder.transformer_layers.0.weight",
    *(f"encoder.transformer_layers.{i}.self_attn.q_proj.weight" for i in (1, 2)),
    "encoder.transformer_layers.3.weight",
    "encoder.transformer_layers.4.bias",
]


def test_half_the_layers_are_every_other_and_what_follows_follows() -> None:
    stacks = paired_stacks(STUDENT, TEACHER)
    assert layer_record(stacks) == {"encoder.transformer_layers": [1, 3]}
    assert [counterpart(name, stacks) for name in STUDENT] == [
        "encoder.conv_layers.1.weight",
        "encoder.transformer_layers.0.weight",
        "encoder.transformer_layers.1.self_attn.q_proj.weight",
        "encoder.transformer_layers.3.self_attn.q_proj.weight",
        "encoder.transformer_layers.5.weight",
        "encoder.transformer_layers.6.bias",
    ]
    norm = "encoder.transformer_layers.2.self_attn_layer_norm.bias"
    assert counterpart(norm, stacks) == "encoder.transformer_layers.3.self_attn_layer_norm.bias"


def test_a_number_inside_a_layer_stays() -> None:
    names = [f"encoder.layers.{i}.self_attn.q_proj.weight" for i in range(4)]
    stacks = paired_stacks(names[:2], names)
    assert counterpart("encoder.layers.1.ffn.2.weight", stacks) == "encoder.layers.2.ffn.2.weight"


def test_what_lies_between_layers_of_two_widths_has_no_counterpart() -> None:
    names = [f"layers.{i}.self_attn.q_proj.weight" for i in (0, 2)]
    assert counterpart("layers.1.weight", paired_stacks(names, names)) is None


def test_the_layers_of_a_gru_are_a_stack() -> None:
    names = [f"gru.{kind}_{gate}_l{i}" for i in range(4) for kind in ("weight", "bias") for gate in ("ih", "hh")]
    stacks = paired_stacks(names[:8], names)
    assert layer_record(stacks) == {"gru": [0, 2]}
    assert counterpart("gru.bias_hh_l1", stacks) == "gru.bias_hh_l2"


def test_what_is_copied_together() -> None:
    assert unit("conv.0.weight") == unit("conv.0.bias") == "conv.0"
    assert unit("gru.weight_ih_l1") == unit("gru.bias_hh_l1") != unit("gru.weight_ih_l0")
    attention = "encoder.layers.1.self_attn"
    assert (
        unit(f"{attention}.q_proj.weight")
        == unit(f"{attention}.out_proj.bias")
        == unit(f"{attention}.pos_bias_u")
        == attention
    )
    assert unit("encoder.layers.1.self_attn_layer_norm.weight") == "encoder.layers.1.self_attn_layer_norm"
