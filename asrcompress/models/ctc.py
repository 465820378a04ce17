"""CTC decoding: from a matrix of unit scores to units, and from units to text. No language model, no Fairseq.

The blank is unit 0: Fairseq's `<s>`, which its CTC criterion and its tasks take for it.
"""

from __future__ import annotations

import numpy as np

from asrcompress.models.text import LETTERS, guess_text_units, join_pieces

BLANK = 0
NUM_SPECIAL_UNITS = 4  # <s>, <pad>, </s>, <unk>
UNKNOWN, UNKNOWN_TEXT = 3, "<unk>"


def greedy(log_probs: np.ndarray) -> list[int]:
    """The units of the best path: argmax per frame, repeats merged, blanks dropped.

    Args:
        log_probs: (frames, units), or any scores with the same order.
    """
    path = log_probs.argmax(axis=-1)
    starts = np.ones(len(path), dtype=bool)
    starts[1:] = path[1:] != path[:-1]
    return [int(unit) for unit in path[starts] if unit != BLANK]


def prefix_beam_search(log_probs: np.ndarray, beam: int) -> tuple[list[int], float]:
    """The most probable unit sequence over all its paths, keeping `beam` prefixes per frame.

    Each prefix carries the probability of the paths that end in blank and of those that end in its last unit
    (Graves 2012; Hannun et al., arXiv 1408.2873, without their language model). With a beam that holds every prefix
    the answer is exact.

    Args:
        log_probs: (frames, units), natural logarithms that sum to 1 per frame.
        beam: prefixes kept, 1 or more.

    Returns:
        Units and the log probability summed over the paths that were kept; earlier found wins a tie.
    """
    log_probs = np.asarray(log_probs, dtype=np.float64)
    prefixes: list[tuple[int, ...]] = [()]
    ends_blank, ends_unit = np.zeros(1), np.full(1, -np.inf)
    for frame in log_probs:
        total = np.logaddexp(ends_blank, ends_unit)
        last = np.array([prefix[-1] if prefix else BLANK for prefix in prefixes])
        stays_blank = total + frame[BLANK]
        stays_unit = ends_unit + frame[last]  # the empty prefix has no paths that end in a unit
        grown = total[:, None] + frame[None, :]
        rows = np.arange(len(prefixes))
        grown[rows, last] = ends_blank + frame[last]  # the same unit twice needs a blank between
        grown[:, BLANK] = -np.inf
        # A prefix that another one grows into is one hypothesis, not two.
        where = {prefix: row for row, prefix in enumerate(prefixes)}
        for row, prefix in enumerate(prefixes):
            parent = where.get(prefix[:-1]) if prefix else None
            if parent is not None:
                stays_unit[row] = np.logaddexp(stays_unit[row], grown[parent, prefix[-1]])
                grown[parent, prefix[-1]] = -np.inf
        scores = np.concatenate([np.logaddexp(stays_blank, stays_unit), grown.ravel()])
        best = np.argsort(-scores, kind="stable")[:beam]
        best = best[scores[best] > -np.inf]
        if not len(best):  # every path has probability 0
            break
        kept, blanks, units = [], [], []
        for index in best:
            if index < len(prefixes):
                kept.append(prefixes[index])
                blanks.append(stays_blank[index])
                units.append(stays_unit[index])
            else:
                row, unit = divmod(int(index) - len(prefixes), len(frame))
                kept.append((*prefixes[row], unit))
                blanks.append(-np.inf)
                units.append(grown[row, unit])
        prefixes, ends_blank, ends_unit = kept, np.array(blanks), np.array(units)
    total = np.logaddexp(ends_blank, ends_unit)
    winner = int(np.argmax(total))
    return list(prefixes[winner]), float(total[winner])


def text_units(labels: str, symbols: list[str]) -> str:
    """How units become text: `letters` with | between words, `sentencepiece`, or `words`.

    Args:
        labels: extension of Fairseq's label files; `ltr` are letters.
        symbols: of the dictionary.
    """
    return LETTERS if labels == "ltr" else guess_text_units(symbols)


def to_text(units: list[int], symbols: list[str], kind: str) -> str:
    """Units as text; special units are left out, the unknown one is written as <unk>, as Fairseq does."""
    pieces = [
        UNKNOWN_TEXT if unit == UNKNOWN else symbols[unit - NUM_SPECIAL_UNITS] for unit in units if unit >= UNKNOWN
    ]
    return join_pieces(pieces, kind)
