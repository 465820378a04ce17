"""The sections on packing and on sizes: a line a job, a column a tool."""

from __future__ import annotations

from experiments.tables import NONE, table

from benchmarks.records import Record, Row

OURS, COPY = "asrcompress", "copy"
GOAL = 0.3


def section(record: Record) -> str:
    """GB/s of each tool at each job, and asrcompress beside the copy."""
    rows: list[Row] = record["rows"]
    parts = [verdict(rows)]
    for where in dict.fromkeys(row["where"] for row in rows):
        found = [row for row in rows if row["where"] == where]
        copied = [row for row in found if row["job"] == COPY]
        title = f"**{where.capitalize()}**, GB per CPU second (GB/s on the clock)"
        if copied:
            title += f"; the copy: {_speed(copied[0])}"
        parts += [f"{title}\n", _by_job([row for row in found if row["job"] != COPY])]
    return "\n\n".join(parts).replace("\n\n\n", "\n\n")


def _by_job(rows: list[Row]) -> str:
    tools = list(dict.fromkeys(row["tool"] for row in rows))
    lines = []
    for job in dict.fromkeys(row["job"] for row in rows):
        found = {row["tool"]: row for row in rows if row["job"] == job}
        ratio = f"{found[OURS]['beside_copy_ratio']:.2f}" if OURS in found else NONE
        lines.append([job, *(_speed(found[tool]) if tool in found else NONE for tool in tools), ratio])
    return table(["", *tools, f"{OURS} / copy"], lines)


def _speed(row: Row) -> str:
    return f"{row['per_cpu_s_gbps']:.2f} ({row['per_wall_s_gbps']:.2f})"


def verdict(rows: list[Row]) -> str:
    """Whether it is at least GOAL of a copy's speed, and faster than everyone."""
    own = [row for row in rows if row["tool"] == OURS]
    from_disk = [row["beside_copy_ratio"] for row in own if row["where"] == "from disk"]
    others = [row["asrcompress_times_as_fast"] for row in rows if row.get("asrcompress_times_as_fast")]
    said = []
    if from_disk:
        is_met = "met" if min(from_disk) >= GOAL else "not met everywhere" if max(from_disk) >= GOAL else "not met"
        speeds = f"{min(from_disk):.2f} to {max(from_disk):.2f} of the copy's speed"
        said.append(f"**From disk to disk asrcompress runs at {speeds}**; the goal, {GOAL}, is {is_met}.")
    if others:
        word = "" if min(others) > 1 else ", so not faster everywhere"
        said.append(f"It is {min(others):.1f} to {max(others):.1f} times as fast as the others at the same job{word}.")
    return " ".join(said)


def sizes(record: Record) -> str:
    """File over theory of each tool, and its bytes."""
    rows: list[Row] = record["rows"]
    tools = list(dict.fromkeys(row["tool"] for row in rows))
    jobs: dict[tuple[str, str, str], dict[str, Row]] = {}
    for row in rows:
        jobs.setdefault((row["layers"], row["codes"], row["scales"]), {})[row["tool"]] = row
    lines = [
        [
            f"{layers}, {codes}, {scales}", f"{next(iter(found.values()))['theory_bytes']:,}",
            *(f"{found[tool]['file_bytes']:,} ({found[tool]['file_beside_theory_ratio']:.3f})" if tool in found else NONE for tool in tools),
        ]
        for (layers, codes, scales), found in jobs.items()
    ]  # fmt: skip
    smaller = [
        f"{tool}, {', '.join(job)}"
        for job, found in jobs.items()
        for tool, row in found.items()
        if OURS in found and row["file_bytes"] < found[OURS]["file_bytes"]
    ]
    said = (
        f"Smaller than asrcompress at the same bits: {'; '.join(smaller)}."
        if smaller
        else "**Nobody is smaller at the same bits.**"
    )
    return f"{said}\n\n{table(['layers, codes, scales', 'theory, bytes', *tools], lines)}"
