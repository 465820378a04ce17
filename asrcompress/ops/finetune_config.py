"""Options of fine-tuning, checked where they enter."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from asrcompress.errors import AsrCompressError
from asrcompress.speech.augment import parse_augment
from asrcompress.training.schedule import MASK_SCHEDULES

PRECISIONS = ("auto", "float32", "bfloat16")
PARALLEL = ("data", "sharded")
SELECT = ("metric", "loss", "last")


@dataclass(frozen=True)
class FinetuneConfig:
    """How a compressed model is trained on.

    epochs: passes over the training set. batch_size: utterances of an update, over all ranks. learning_rate: the peak.
    warmup: share of the updates. clip_norm: of the gradient. distillation: weight of the float parent's output against the
    references, 0 to 1. temperature: of it. mask_schedule: when masks are chosen anew: one-shot, few-shot (every
    mask_interval updates) or every-step, in the first mask_until of the training. sr_ste: how strongly dropped weights are
    pulled to 0 where masks can change. scales: learned, found anew by squared error every mask_interval updates (mse), or as the
    quantizer chose them (fixed). evaluations: of the development set, per epoch; 0.2 is one every five. patience: evaluations without a better one
    before training ends early; 0 for never. limit: of utterances to train on, spread evenly. precision: of products; auto is
    bfloat16 on CUDA. parallel: what ranks share, data or the model, too. seed: of the order of utterances, and of what is
    drawn for them. augment: what is done to the training set's audio and features, as speech/augment.py has it; nothing where
    empty. positive_share: of clips with the keyword among those drawn for an epoch; as they come where None. attention_loss,
    hidden_loss: weights of the distance from the teacher's attention maps and layer outputs. sequence_level: learn the teacher's
    own transcripts instead of the references (Kim and Rush 2016, arXiv 1606.07947). select: the weights that are kept: of the smallest
    metric or the smallest loss on the development set, or the last ones.
    """

    epochs: float = 6.0
    batch_size: int = 32
    learning_rate: float = 1e-4
    warmup: float = 0.05
    clip_norm: float = 1.0
    distillation: float = 0.7
    temperature: float = 1.0
    mask_schedule: str = "one-shot"
    mask_interval: int = 50
    mask_until: float = 0.7
    sr_ste: float = 2e-4
    scales: str = "learned"
    evaluations: float = 1
    patience: int = 0
    limit: int | None = None
    precision: str = "auto"
    parallel: str = "data"
    seed: int = 1
    augment: str = ""
    positive_share: float | None = None
    attention_loss: float = 0.0
    hidden_loss: float = 0.0
    sequence_level: bool = False
    select: str = "metric"

    def __post_init__(self) -> None:
        object.__setattr__(
            self, "augment", str(parse_augment("" if self.augment == "none" else self.augment))
        )  # in full, as it is recorded
        for name, low, high in (
            ("epochs", 0, 10**6), ("batch_size", 1, 10**6), ("learning_rate", 0, 1), ("clip_norm", 0, 10**9), ("temperature", 0, 10**3),
            ("mask_interval", 1, 10**9), ("evaluations", 0, 10**6), ("patience", 0, 10**6), ("limit", 1, 10**9),
            ("warmup", 0, 1), ("distillation", 0, 1), ("mask_until", 0, 1), ("sr_ste", 0, 10**3), ("seed", 0, 2**31 - 1),
            ("positive_share", 0, 1), ("attention_loss", 0, 10**6), ("hidden_loss", 0, 10**6),
        ):  # fmt: skip
            value = getattr(self, name)
            if value is None:
                continue
            is_open = name in ("epochs", "evaluations", "learning_rate", "clip_norm", "temperature")
            if not (low < value <= high if is_open else low <= value <= high):
                bound = f"above {low} and at most {high}" if is_open else f"{low} to {high}"
                option = "finetune-limit" if name == "limit" else name.replace("_", "-")
                raise AsrCompressError(f"--{option} {value}: use {bound}")
        for name, choices in (
            ("mask_schedule", MASK_SCHEDULES), ("scales", ("learned", "mse", "fixed")), ("precision", PRECISIONS), ("parallel", PARALLEL),
            ("select", SELECT),
        ):  # fmt: skip
            if getattr(self, name) not in choices:
                raise AsrCompressError(f"--{name.replace('_', '-')} {getattr(self, name)}: use {', '.join(choices)}")

    @property
    def wants_teacher(self) -> bool:
        """Whether anything of a teacher is learned."""
        return bool(self.distillation or self.attention_loss or self.hidden_loss or self.sequence_level)

    @property
    def has_passing(self) -> bool:
        """Whether what is heard in one update is not heard again."""
        augment = parse_augment(self.augment)
        return bool(augment) and not augment.variants

    def to_json(self) -> dict[str, Any]:
        """What is recorded."""
        return asdict(self)
