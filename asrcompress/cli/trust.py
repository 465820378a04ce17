"""What --trust-checkpoint says before a checkpoint may run code."""

from __future__ import annotations

from asrcompress.cli.output import say


def warn_of_trust(path: str) -> None:
    """Name the classes and functions that reading the file with trust would run."""
    from asrcompress.checkpoints import unsafe_globals

    names = unsafe_globals(path)
    if names:
        say(f"asrcompress: --trust-checkpoint: {path} may now run code through {', '.join(names)}")
    else:
        say(f"asrcompress: --trust-checkpoint: {path} names nothing that needs trust")
