"""The one error type users see, and the exit codes. Leaves printing to cli/."""

from __future__ import annotations

EXIT_OK = 0
EXIT_GATE_FAILED = 1
EXIT_USER = 2  # the user can fix it
EXIT_BUG = 3
EXIT_INTERRUPTED = 130
EXIT_BROKEN_PIPE = 141


class AsrCompressError(Exception):
    """Something the user can fix. The message is one line: the file, the cause, the way out.

    is_said: another process of this run tells the user.
    """

    is_said = False

    def __init__(self, message: str) -> None:
        super().__init__(" ".join(message.split()))
