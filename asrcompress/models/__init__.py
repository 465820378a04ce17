"""Model families: name -> module, loaded when asked for.

A family is a module with these names:

TASK                        "asr" or "keyword"
SAMPLE_RATE_HZ              of the audio it takes
recognises(checkpoint)      whether a checkpoint is of this family
read_spec(checkpoint, data_dir)  -> ModelSpec: all that is needed to build, plain JSON
clean_tensors(checkpoint, spec)  -> the model's own tensors, under the built module's names
is_computed(name)           whether a tensor of the built module is not learned, and so never stored
build(spec)                 -> a fresh float torch.nn.Module in eval mode, weights not loaded
features(spec, audio)       waveform -> (frames, bins) or what the module takes
example_inputs(spec, duration_s, num_tokens, batch_size) -> (inputs of forward, input record) to count MACs
DEFAULT_DURATION_S          of those inputs
CRITERION                   "cross_entropy" (a row of log-probabilities a token) or "ctc" (one a frame); see criterion.py
log_probs(spec, module, features, targets) -> (steps, vocabulary) per utterance, differentiable and without padding:
                            teacher-forced for decoders, over frames for ctc, (1, 2) for keywords. Targets matter to
                            decoders only. A batch gives each utterance the values it has alone; the module may be float,
                            swapped, observed or on integers, and the caller decides about gradients
asr: transcriber(spec, module, **decoding) -> list of features -> list of texts
asr: read_targets(spec, data_dir, references) -> ids that the criterion wants, int64: with </s> for decoders, without blanks
                            for ctc. `data_dir` holds the SentencePiece model: targets.find_folder finds it
ctc: blank_unit(spec)       the id of the blank
optional, asr: search_method(beam), UNUSED_OPTIONS  what `eval` records of the search, and its options that mean nothing here
STUDENT_OPTIONS             sizes that a student of the family may have, by name -> how many numbers each is (0: a list)
student(spec, given, shrink) -> (ModelSpec of a student, all of its sizes): given ones, else the teacher's times shrink
optional: initialise(module) draws what build() leaves as it is, or draws otherwise, where training starts anew
keyword: scores(module, features) -> probability of the keyword, per clip
optional, keyword: fit_clip(audio), quick_features(spec, audio), FRAMES_AXIS  clips of one length, which training speech may be shifted in;
                            features up to rounding, for training; the axis of features that frames run along, where not the first
keyword: stream(spec, module, window_s) -> the model on running audio: kws_stream.KeywordStream
"""

from __future__ import annotations

from dataclasses import dataclass
from importlib import import_module
from types import ModuleType
from typing import TYPE_CHECKING, Any

from asrcompress.errors import AsrCompressError

if TYPE_CHECKING:
    from asrcompress.checkpoints import Checkpoint

FAMILIES = {
    "s2t_transformer": "asrcompress.models.s2t_transformer",
    "s2t_conformer": "asrcompress.models.s2t_conformer",
    "asr_vggtransformer": "asrcompress.models.vgg_transformer",
    "asr_vggtransformer_encoder": "asrcompress.models.vgg_encoder",
    "kws_crnn": "asrcompress.models.kws_crnn",
    "wav2vec_ctc": "asrcompress.models.wav2vec_ctc",
    "hubert_ctc": "asrcompress.models.hubert_ctc",
}


@dataclass(frozen=True)
class ModelSpec:
    """What an artifact stores to build its model again. `config` is plain JSON."""

    family: str
    config: dict[str, Any]
    vocabulary: list[str] | None = None


def get_family(name: str) -> ModuleType:
    """The family called `name`. Raises AsrCompressError with the known names."""
    if name not in FAMILIES:
        raise AsrCompressError(f"model family '{name}' is not supported; supported: {', '.join(FAMILIES)}")
    return import_module(FAMILIES[name])


def recognise(checkpoint: Checkpoint) -> ModuleType:
    """The family that a checkpoint belongs to, or an error that says what it looks like."""
    for name in FAMILIES:
        family = get_family(name)
        if family.recognises(checkpoint):
            return family
    what = (
        f"architecture '{checkpoint.arch}'"
        if checkpoint.arch
        else f"a model with the tensor '{next(iter(checkpoint.tensors))}'"
    )
    raise AsrCompressError(f"{checkpoint.path}: {what} is of no supported family; supported: {', '.join(FAMILIES)}")
