"""A student that learns from a teacher's layers: pairs of layers, widths that differ, and what cannot be compared."""

from __future__ import annotations

import pytest
import torch

from asrcompress.training.imitation import Imitation
from asrcompress.training.loss import attention_divergence, hidden_error
from asrcompress.training.watch import Seen


def seen(seed: int, layers: int, width: int, *lengths: int, decoder: int = 3) -> Seen:
    """Of a batch with its padding: an encoder and the attention to it from a decoder of `decoder` steps."""
    generator = torch.Generator().manual_seed(seed)
    longest, batch = max(lengths), len(lengths)
    inside = torch.arange(longest) < torch.tensor(lengths)[:, None]

    def weights(queries: int) -> torch.Tensor:
        scores = torch.randn(batch, queries, longest, generator=generator)
        return scores.masked_fill(~inside[:, None], -torch.inf).softmax(-1)

    return Seen(
        {"encoder": [weights(longest) for _ in range(layers)], "cross": [weights(decoder) for _ in range(layers)]},
        {"encoder": [torch.randn(batch, longest, width, generator=generator) for _ in range(layers)]},
    )


def alone(batch: Seen, *lengths: int) -> list[Seen]:
    return [batch.of(index, length) for index, length in enumerate(lengths)]


def test_it_is_the_mean_over_paired_layers_of_each_utterance_alone():
    student, teacher = seen(1, 2, 8, 5, 3), alone(seen(2, 4, 8, 5, 3), 5, 3)
    imitation = Imitation(student.of(0, 5), teacher[0], seed=1)
    found = imitation(student, teacher, [2, 7])
    attention, hidden = 0.0, 0.0
    for index, (length, tokens) in enumerate(((5, 2), (3, 7))):
        own = student.of(index, length)
        for ours, theirs in ((0, 1), (1, 3)):
            for stack in ("encoder", "cross"):
                maps = own.maps[stack][ours][None], teacher[index].maps[stack][theirs][None]
                attention += tokens * float(attention_divergence(*maps).mean()) / 4
            outputs = own.outputs["encoder"][ours][None], teacher[index].outputs["encoder"][theirs][None]
            hidden += tokens * float(hidden_error(*outputs).mean()) / 2
    assert float(found["attention"]) == pytest.approx(attention, rel=1e-5)
    assert float(found["hidden"]) == pytest.approx(hidden, rel=1e-5)
    assert imitation.describe() == {
        "attention": [["encoder", 0, 1], ["encoder", 1, 3], ["cross", 0, 1], ["cross", 1, 3]],
        "hidden": [["encoder", 0, 1], ["encoder", 1, 3]],
    }
    assert not list(imitation.parameters())  # widths are the same


def test_a_narrower_student_learns_through_a_map_that_is_trained():
    """Its outputs are a rotation of part of the teacher's: a linear map undoes that, and training finds it."""
    wide = seen(2, 1, 12, 40)
    basis = torch.linalg.qr(torch.randn(12, 5, generator=torch.Generator().manual_seed(3))).Q
    low = wide.outputs["encoder"][0] @ basis  # 5 wide
    teacher = [Seen({}, {"encoder": [(low @ basis.T)[0]]})]
    student = Seen({}, {"encoder": [low @ torch.linalg.qr(torch.randn(5, 5)).Q]})
    imitation = Imitation(student.of(0), teacher[0], seed=1)
    (bridge,) = imitation.parameters()
    assert bridge.shape == (12, 5)
    first = float(imitation(student, teacher, [1])["hidden"])
    assert first > 1
    optimizer = torch.optim.Adam(imitation.parameters(), lr=0.05)
    for _ in range(300):
        optimizer.zero_grad()
        loss = imitation(student, teacher, [1])["hidden"]
        loss.backward()
        optimizer.step()
    assert float(loss.detach()) < 0.01
    again = Imitation(student.of(0), teacher[0], seed=1), Imitation(student.of(0), teacher[0], seed=2)
    values = [float(other(student, teacher, [1])["hidden"]) for other in again]
    assert values[0] == first
    assert values[1] != first


def test_encoders_may_fill_up_a_batch_beyond_its_longest():
    student, teacher = seen(1, 1, 8, 6, 3), alone(seen(2, 1, 8, 5, 3), 5, 3)
    imitation = Imitation(student.of(0, 5), teacher[0], seed=1)
    cut = Seen(
        {stack: [layer[:, : 5 if stack == "encoder" else 3, :5] for layer in layers] for stack, layers in student.maps.items()},
        {"encoder": [student.outputs["encoder"][0][:, :5]]},
    )  # fmt: skip
    for name, value in imitation(student, teacher, [1, 1]).items():
        assert float(value) == pytest.approx(float(imitation(cut, teacher, [1, 1])[name]))


def test_what_cannot_be_compared_is_an_error():
    student, teacher = seen(1, 2, 8, 5), seen(2, 2, 8, 4)
    with pytest.raises(ValueError, match="encoder layers have 5 x 5 steps in the one and 4 x 4 in the other"):
        Imitation(student.of(0), teacher.of(0), seed=1)
    with pytest.raises(ValueError, match="no layers and the other cross and encoder layers"):
        Imitation(Seen({}, student.outputs), seen(2, 2, 8, 5).of(0), seed=1)
    imitation = Imitation(student.of(0), seen(2, 2, 8, 5).of(0), seed=1)
    with pytest.raises(ValueError, match=r"the one makes \(5, 5\) steps of what the other makes \(9, 9\) of"):
        imitation(student, [seen(2, 2, 8, 9).of(0)], [1])
