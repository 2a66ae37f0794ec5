"""The port `Programs`: short programs as argument lists, never a shell, and nothing of them left behind."""

import asyncio
from collections.abc import Mapping, Sequence
from datetime import timedelta

from service.cancellation import to_the_end
from service.children import base_environment, closed, end_group, ended, spawn
from service.errors import Permanent, Retry
from service.timeouts import time_limit

KEPT = 64 * 1024
"""Bytes kept of each stream; the rest is read and dropped, so that a talkative program does not block."""


class LocalPrograms:
    """Programs of this host."""

    async def run(
        self, command: Sequence[str], environment: Mapping[str, str], folder: str, timeout: timedelta
    ) -> tuple[int, str, str]:
        """Exit status (negative: the signal), output, errors. Its whole group is ended when time is over or on cancel.

        Raises Permanent when it cannot be run, Retry when it took longer than `timeout`.
        """
        try:
            process = await spawn(
                *command,
                stdin=asyncio.subprocess.DEVNULL,
                stderr=asyncio.subprocess.PIPE,
                env={**base_environment(), **environment},
                cwd=folder,
                own_group=True,
            )
        except (OSError, ValueError) as error:
            raise Permanent(f"the program {command[0]} cannot be run in {folder}: {error}") from error
        assert process.stdout is not None  # noqa: S101  # asked for above
        assert process.stderr is not None  # noqa: S101
        try:
            async with time_limit(timeout.total_seconds()), asyncio.TaskGroup() as tasks:
                output = tasks.create_task(_head(process.stdout))
                errors = tasks.create_task(_head(process.stderr))
                await ended(process)
                # What it left in the background holds our pipes, and nobody asked for it.
                end_group(process.pid)
        except TimeoutError as error:
            raise Retry(f"{command[0]} did not end within {timeout.total_seconds():g} s and was ended") from error
        finally:
            end_group(process.pid)
            await to_the_end(closed(process))
        return process.returncode or 0, output.result(), errors.result()


async def _head(stream: asyncio.StreamReader) -> str:
    kept = bytearray()
    while chunk := await stream.read(KEPT):
        kept += chunk[: KEPT - len(kept)]
    return kept.decode("utf-8", "replace")
