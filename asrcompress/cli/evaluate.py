"""`asrcompress eval`."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Optional

import typer

from asrcompress.cli.long_form import (
    DebounceS,
    FalseRejectRate,
    LongForm,
    Reset,
    SmoothingS,
    long_form_config,
    long_form_summary,
)
from asrcompress.cli.options import DataDir, Device, Force, Json, ModelArgument, Output, Threads, Trust
from asrcompress.cli.output import emit, emit_json, format_bytes, path_from_stdin, progress_bar, say
from asrcompress.errors import AsrCompressError

if TYPE_CHECKING:
    from asrcompress.ops.stream_config import StreamConfig


def evaluate(
    model: ModelArgument = None,
    data: Annotated[
        Optional[Path],
        typer.Option(
            "--data",
            help="Test set: Fairseq .tsv, LibriSpeech folder, path<TAB>text; keywords: folder per word, or a manifest.",
            show_default=False,
        ),
    ] = None,
    output: Output = None,
    baseline: Annotated[
        Optional[Path], typer.Option("--baseline", help="Earlier .eval.json on the same set: adds a paired interval.")
    ] = None,
    beam: Annotated[Optional[int], typer.Option(help="Beam width (ASR). [default: 5]", show_default=False)] = None,
    lenpen: Annotated[
        Optional[float],
        typer.Option(help="Length penalty: above 1 favours longer texts (ASR). [default: 1.0]", show_default=False),
    ] = None,
    max_len_a: Annotated[
        Optional[float],
        typer.Option(help="At most a*frames + b tokens are generated (ASR). [default: 0.0]", show_default=False),
    ] = None,
    max_len_b: Annotated[
        Optional[int], typer.Option(help="See --max-len-a (ASR). [default: 200]", show_default=False)
    ] = None,
    batch_size: Annotated[
        int,
        typer.Option(
            help="Utterances decoded together. 1 is reproducible to the bit; more is faster and, by padding, can change a word."
        ),
    ] = 1,
    normalizer: Annotated[
        Optional[str],
        typer.Option(help="Text normaliser, for both sides: basic or none (ASR). [default: basic]", show_default=False),
    ] = None,
    keyword: Annotated[Optional[str], typer.Option(help="The word to find (keywords).")] = None,
    split: Annotated[
        Optional[str], typer.Option(help="train, val or test, where the set has splits (keywords).")
    ] = None,
    threshold: Annotated[
        Optional[float],
        typer.Option(
            help="Probability from which a clip counts as the keyword (keywords). [default: 0.5]", show_default=False
        ),
    ] = None,
    streaming: Annotated[
        bool,
        typer.Option(
            "--streaming",
            help="Play each clip in pieces to a stream of bounded memory, score its last step, compare all with the whole clip's (keywords).",
        ),
    ] = False,
    chunk_ms: Annotated[
        Optional[str],
        typer.Option(
            help="Length of a piece with --streaming: milliseconds, or a range such as 10..500 to draw from. [default: 100]",
            show_default=False,
        ),
    ] = None,
    window_s: Annotated[
        Optional[float],
        typer.Option(
            help="Seconds of audio that the attention sees on running audio; less than a clip changes results (keywords). [default: 1.0]",
            show_default=False,
        ),
    ] = None,
    long_form: LongForm = None,
    false_reject_rate: FalseRejectRate = None,
    smoothing_s: SmoothingS = None,
    debounce_s: DebounceS = None,
    reset: Reset = None,
    audio_root: Annotated[
        Optional[Path], typer.Option(help="Where a table's relative audio paths start [default: its folder].")
    ] = None,
    limit: Annotated[
        Optional[int], typer.Option(help="Only the first N utterances (another test set, with its own hash).")
    ] = None,
    resamples: Annotated[int, typer.Option(help="Draws of the bootstrap.")] = 1000,
    confidence: Annotated[float, typer.Option(help="Of the interval.")] = 0.95,
    seed: Annotated[int, typer.Option(help="Of the bootstrap.")] = 0,
    device: Device = "cpu",
    threads: Threads = 1,
    data_dir: DataDir = None,
    trust_checkpoint: Trust = False,
    force: Force = False,
    as_json: Json = False,
) -> None:
    """Measure a model on a test set: WER and CER with an interval, or AU FA-FR. Writes MODEL.eval.json.

    \b
    Example:
      asrcompress eval samples/asr/checkpoint_best.pt --data samples/asr/test.tsv --limit 5 -o /tmp/float.eval.json
    """
    path = path_from_stdin("model") if model in (None, "-") else model
    if data is None:
        raise AsrCompressError("--data is missing: name the test set")

    from asrcompress.cli.trust import warn_of_trust
    from asrcompress.kernels import build
    from asrcompress.ops.eval_config import EvalConfig
    from asrcompress.ops.evaluate import evaluate as run
    from asrcompress.ops.load import set_threads

    config = EvalConfig(
        data=data, audio_root=audio_root, beam=beam, lenpen=lenpen, max_len_a=max_len_a, max_len_b=max_len_b, batch_size=batch_size,
        normalizer=normalizer, keyword=keyword, split=split, threshold=threshold, limit=limit, baseline=baseline,
        num_resamples=resamples, confidence=confidence, seed=seed, device=device,
        stream=_stream_options(streaming, chunk_ms, None if long_form and not streaming else window_s),
        long_form=long_form_config(
            long_form, threshold=threshold, false_reject_rate=false_reject_rate, smoothing_s=smoothing_s,
            debounce_s=debounce_s, reset=reset, window_s=window_s,
        ),
    )  # fmt: skip
    set_threads(threads)
    if sys.stderr.isatty():
        build.announce = lambda text: say(text)
    if trust_checkpoint:
        warn_of_trust(path)
    written, record = run(
        path,
        config,
        output=output,
        data_dir=data_dir,
        trust=trust_checkpoint,
        force=force,
        progress=progress_bar("eval"),
    )
    say(_summary(record))
    if record.get("long_form"):
        say(f"long form: {long_form_summary(record['long_form'])}")
    if as_json:
        emit_json(record)
    else:
        emit(str(written))


def _stream_options(streaming: bool, chunk_ms: str | None, window_s: float | None) -> StreamConfig | None:
    from asrcompress.ops.stream_config import StreamConfig, parse_chunk_ms

    for option, value in (("--chunk-ms", chunk_ms), ("--window-s", window_s)):
        if value is not None and not streaming:
            raise AsrCompressError(f"{option} {value}: is for streams; add --streaming, or leave it out")
    if not streaming:
        return None
    default = StreamConfig()
    return StreamConfig(
        chunk_ms=default.chunk_ms if chunk_ms is None else parse_chunk_ms(chunk_ms),
        window_s=default.window_s if window_s is None else window_s,
    )


def _summary(record: dict[str, Any]) -> str:
    """One line: the figure, its interval and counts, the size, the speed."""
    metrics, model = record["metrics"], record["model"]
    name = "wer" if "wer" in metrics else "au_fa_fr"
    interval = record["intervals"][name]
    between = f"{interval['confidence']:.0%} interval"
    if name == "wer":
        figure = (
            f"WER {metrics['wer']:.2%} ({between} {interval['low']:.2%} to {interval['high']:.2%}; {_errors(metrics)})"
        )
    else:
        figure = (
            f"AU FA-FR {metrics['au_fa_fr']:.3e} ({between} {interval['low']:.2e} to {interval['high']:.2e}); at threshold "
            f"{record['decoding']['threshold']:g}: {metrics['false_accepts']} false accepts, {metrics['false_rejects']} false rejects"
        )
    scored = f"{metrics['num_scored']} of {metrics['num_utterances']} scored"
    speed = f"real-time factor {metrics['real_time_factor']:.3f}"
    line = f"{model['file']}: {figure}; {scored}; {format_bytes(model['size_bytes'])}; {speed}"
    if metrics.get("num_without_frames"):
        line += f"; {metrics['num_without_frames']} shorter than a 25 ms window, scored as nothing heard"
    if record["paired"]:
        line += f"; {_paired(record['paired'])}"
    if record.get("streaming"):
        line += f"; {_streaming(record['streaming'])}"
    return line


def _streaming(block: dict[str, Any]) -> str:
    exact = "" if block["num_different"] is None else f", {block['num_different']} of other codes"
    latency = block["latency_ms"]
    return (
        f"streamed in pieces of {'..'.join(f'{ms:g}' for ms in dict.fromkeys(block['chunk_ms']))} ms: {block['num_steps']} steps, at most "
        f"{block['max_difference']:.1e} from the whole clip's{exact}; computing a piece takes {latency['median']:.2f} ms "
        f"(95 % below {latency['p95']:.2f} ms); state {format_bytes(block['state_bytes'])}"
    )


def _paired(paired: dict[str, Any]) -> str:
    if paired["metric"] == "wer":
        difference, low, high = (f"{paired[key]:+.2%}" for key in ("delta", "low", "high"))
    else:
        difference, low, high = (f"{paired[key]:+.2e}" for key in ("delta", "low", "high"))
    return f"paired difference to the baseline {difference} ({paired['confidence']:.0%} interval {low} to {high})"


def _errors(metrics: dict[str, Any]) -> str:
    counts = f"{metrics['substitutions']} sub, {metrics['insertions']} ins, {metrics['deletions']} del of {metrics['num_reference_words']} words"
    return counts + (f", {metrics['num_empty_references']} empty references" if metrics["num_empty_references"] else "")
