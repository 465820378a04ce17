"""How good a model in training is: WER of greedy search, or AU FA-FR, and the loss, on a development set."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch

from asrcompress.errors import AsrCompressError
from asrcompress.metrics.detection import detection_curve
from asrcompress.metrics.error_rate import score
from asrcompress.metrics.normalizers import get_normalizer
from asrcompress.models.criterion import negative_log_likelihood
from asrcompress.models.device import device_of
from asrcompress.ops.load import LoadedModel
from asrcompress.ops.probe_data import ProbeData
from asrcompress.ops.probe_rig import make_batches
from asrcompress.ops.speech_choice import NORMALIZER
from asrcompress.training.parallel import Parallel


@dataclass(frozen=True)
class DevelopmentSet:
    """Utterances or clips that training is judged on."""

    data: ProbeData
    batch_size: int = 16

    @property
    def metric(self) -> str:
        """wer or au_fa_fr."""
        return "wer" if self.data.labels is None else "au_fa_fr"

    def describe(self) -> dict[str, Any]:
        """What a sidecar records."""
        return self.data.describe()

    def measure(self, loaded: LoadedModel, parallel: Parallel | None = None) -> tuple[float, float]:
        """(WER or AU FA-FR, loss in nats a token) of a model; the ranks share the work and all get the result.

        Raises:
            AsrCompressError: the loss is no number.
        """
        parallel = parallel or Parallel()
        family, spec, data = loaded.source.family, loaded.source.spec, self.data
        transcribe = family.transcriber(spec, loaded.module, beam=1) if data.labels is None else None
        device = device_of(loaded.module)
        batches = make_batches(data.features, self.batch_size)[parallel.rank :: parallel.size]
        sums, counts, texts = [], 0, {}
        scores = [0.0] * len(data.features)
        for positions in batches:
            features = [data.features[position].to(device) for position in positions]
            targets = [data.targets[position] for position in positions]
            with torch.no_grad():
                found = family.log_probs(spec, loaded.module, features, targets)
                losses, tokens = negative_log_likelihood(family, spec, found, targets)
                results = transcribe(features) if transcribe else family.scores(loaded.module, features)
            sums += losses.tolist()
            counts += int(tokens.sum())
            for position, result in zip(positions, results, strict=True):
                if transcribe:
                    texts[position] = result
                else:
                    scores[position] = float(result)
        if data.labels is not None:
            scores = parallel.sum(scores)
            total, tokens_all = parallel.sum([math.fsum(sums), counts])
            metric = detection_curve(scores, list(data.labels)).au_fa_fr
        else:
            errors, words = self._errors(texts, is_first=parallel.rank == 0)
            total, tokens_all, errors_all, words_all = parallel.sum([math.fsum(sums), counts, errors, words])
            metric = errors_all / max(words_all, 1)
        loss = total / max(tokens_all, 1)
        if not math.isfinite(loss):
            raise AsrCompressError(f"the loss on {data.file} is {loss}; try a smaller --learning-rate")
        return metric, loss

    def _errors(self, texts: dict[int, str], *, is_first: bool) -> tuple[int, int]:
        """Words wrong and words said; the first rank counts utterances without a frame, which nobody hears, too."""
        references = self.data.references or ()
        silent = {p: "" for p, frames in enumerate(self.data.features) if not len(frames)} if is_first else {}
        pairs = sorted((texts | silent).items())
        if not pairs:
            return 0, 0
        rates = score(
            [references[position] for position, _ in pairs],
            [text for _, text in pairs],
            normalizer=get_normalizer(NORMALIZER),
        )
        counts = [errors.words for errors in rates.per_utterance]
        return sum(count.num_errors for count in counts), sum(count.num_reference for count in counts)
