"""What a sensitivity table costs by gradients, and by running every changed model. Not a test: it asserts nothing.

usage: python tests/bench/bench_sensitivity.py CHECKPOINT DATA [--split val --keyword happy] [--limit N] [--json OUT]

All units x 8, 4, 3, 2 bits, weights also x 2:4 and 1:4. One thread and CPU time, in one run:
  forward    one run of the float model over the data, references told to decoders, in batches (median of 5, between the parts)
  proxies    inputs, gradients, codes of every option, effects: all that `sensitivity` does before its exact trials
  kept       the brute-force sweep with what runs before the changed module kept (ops/probe.py), loss and divergence of every cell
  brute      the same sweep, the whole model every time, timed on every `--every`th cell and scaled up
Then how far the proxies rank the cells as the exact sweep does.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from asrcompress.metrics.rank_correlation import spearman
from asrcompress.ops.candidates import find_candidates
from asrcompress.ops.gradients import by_length
from asrcompress.ops.load import build_model, open_source
from asrcompress.ops.probe import Probe
from asrcompress.ops.sensitivity_config import SensitivityConfig
from asrcompress.ops.sensitivity_files import SensitivityData
from asrcompress.ops.sensitivity_table import estimate, find_units

BATCH_SIZE = 16


def timed(work: Callable[[], Any]) -> tuple[float, Any]:
    """CPU seconds, and what came out."""
    begin = time.process_time()
    found = work()
    return time.process_time() - begin, found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkpoint", type=Path)
    parser.add_argument("data", type=Path)
    parser.add_argument("--split")
    parser.add_argument("--keyword")
    parser.add_argument("--limit", type=int)
    parser.add_argument("--every", type=int, default=10)
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    torch.set_num_threads(1)
    source = open_source(args.checkpoint)
    config = SensitivityConfig(limit=args.limit)
    data = SensitivityData(args.data, args.split, args.keyword).read(source, config, None)
    model = build_model(source).module
    batches = by_length(data.features, BATCH_SIZE)

    def forward(module: torch.nn.Module = model) -> None:
        with torch.no_grad():
            for batch in batches:
                features, targets = ([items[place] for place in batch] for items in (data.features, data.targets))
                source.family.log_probs(source.spec, module, features, targets)

    forward()  # a warm-up
    forwards = [timed(forward)[0] for _ in range(2)]
    units = find_units(source, data, activations=True)
    weights = [unit for unit in units if unit.target == "weight"]
    candidates = find_candidates(source, data, config, lambda label: lambda done, total: None)
    weights_s, _ = timed(lambda: estimate(source, data, weights, candidates, config))
    forwards.append(timed(forward)[0])
    candidates = find_candidates(source, data, config, lambda label: lambda done, total: None)
    proxies_s, effects = timed(lambda: estimate(source, data, units, candidates, config))
    forwards += [timed(forward)[0] for _ in range(2)]
    forward_s = statistics.median(forwards)
    cells = list(effects)
    say(args, units, len(cells), forward_s)
    print(f"proxies, weights     {weights_s:8.2f} CPU s, {weights_s / forward_s:6.1f} forward runs")
    print(f"proxies, all units   {proxies_s:8.2f} CPU s, {proxies_s / forward_s:6.1f} forward runs")
    probe = Probe(source, units, candidates, data, batch_size=BATCH_SIZE)
    probe.activation_sites()
    exact, brute_s, num_timed = {}, 0.0, 0
    begin = time.process_time()
    for number, (name, option) in enumerate(cells):
        exact[name, option] = probe.measure({name: option}, decode=False)
        if number % args.every == 0:  # between the others, so that both feel the same machine
            pause = time.process_time()
            brute_s += timed(forward)[0]
            num_timed += 1
            begin += time.process_time() - pause
    kept_s = time.process_time() - begin
    brute_s *= len(cells) / num_timed
    print(f"exact, prefixes kept {kept_s:8.2f} CPU s, {kept_s / proxies_s:6.1f} x the proxies")
    print(f"exact, brute force   {brute_s:8.2f} CPU s, {brute_s / proxies_s:6.1f} x the proxies")
    baseline = probe.measure({}, decode=False)
    loss = [exact[cell].loss - baseline.loss for cell in cells]
    kl = [exact[cell].kl for cell in cells]
    groups = {
        "all cells": range(len(cells)),
        "weights": [place for place, (name, _) in enumerate(cells) if name in {unit.name for unit in weights}],
    }
    record: dict[str, Any] = {
        "file": args.checkpoint.name, "num_utterances": len(data.features), "num_units": len(units), "num_cells": len(cells),
        "forward_s": forward_s, "proxies_weights_s": weights_s, "proxies_s": proxies_s, "kept_s": kept_s, "brute_s": brute_s,
    }  # fmt: skip
    for group, places in groups.items():
        for proxy, against, theirs in (("loss", "loss", loss), ("kl", "kl", kl), ("kl", "loss", loss)):
            found = spearman([getattr(effects[cells[p]], proxy) for p in places], [theirs[p] for p in places])
            print(
                f"Spearman, {group:9s} {'fisher' if proxy == 'loss' else 'kl':6s} with exact {against:4s} {found.spearman:.3f} "
                f"(95 % interval {found.low:.3f} to {found.high:.3f}, {found.num_pairs} pairs)"
            )
            key = f"{group.split()[0]}_{'fisher' if proxy == 'loss' else 'kl'}_{against}"
            record[key] = [found.spearman, found.low, found.high]
    if args.json:
        args.json.write_text(json.dumps(record, indent=1) + "\n")


def say(args: argparse.Namespace, units: list[Any], num_cells: int, forward_s: float) -> None:
    """What is measured."""
    print(
        f"{args.checkpoint.name}: {len(units)} units, {num_cells} cells; one forward run over {args.data.name} takes {forward_s:.3f} CPU s"
    )


if __name__ == "__main__":
    main()
