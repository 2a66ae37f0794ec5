"""What a private server says to people when it cannot do what was asked."""

from pathlib import Path

from service.errors import RelightError

TAIL_LINES = 20
"""Lines of a server's log that an error carries: enough for the cause, short enough for a terminal."""


class EmbeddedError(RelightError):
    """A private server could not be started, found or used. The text is complete: it is for people."""

    def __init__(self, happened: str, *, did: str = "", next_step: str = "", log: Path | None = None) -> None:
        parts = [happened]
        if did:
            parts.append(did)
        if next_step:
            parts.append(f"What to do: {next_step}")
        if log is not None:
            lines = tail(log)
            parts.append(f"The end of {log}:" if lines else f"{log} is empty.")
            parts.extend(f"    {line}" for line in lines)
        super().__init__("\n".join(parts))
        self.happened = happened


def tail(log: Path, lines: int = TAIL_LINES) -> list[str]:
    """The last lines of a log file; nothing when it cannot be read."""
    try:
        with log.open("rb") as file:
            file.seek(0, 2)
            file.seek(max(0, file.tell() - 64_000))
            text = file.read().decode("utf-8", "replace")
    except OSError:
        return []
    return [line for line in text.splitlines() if line.strip()][-lines:]
