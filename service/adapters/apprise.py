"""The room of Apprise: the port `Notifier`. Nothing else imports it; whom to tell what is decided elsewhere.

No word of a channel's URL leaves this room: libraries put addresses and tokens into what they log and raise, so only
causes out of a fixed list are told.
"""

import asyncio
import contextlib
import logging
import re
import threading
from collections.abc import Callable, Iterator, Mapping
from datetime import timedelta
from typing import TypeVar

from service.logs import UNHEARD
from service.ports import Clock, Severity, Told
from service.timeouts import time_limit

T = TypeVar("T")

CAUSES: tuple[tuple[str, str], ...] = (
    (r"refused", "nobody listens there: the connection was refused"),
    (r"timed out|timeout", "it did not answer in time"),
    (r"getaddrinfo|name resolution|name or service|nodename|not known", "its host's name is not known"),
    (r"certificate|ssl", "no trusted encrypted connection could be made"),
    (r"authenti|credential|login|\b535\b", "it does not accept the user or the password of the URL"),
    (r"unreachable|no route", "there is no route to its host"),
    (r"reset|closed|disconnect|aborted", "it ended the connection"),
)
"""A pattern in what was logged, and what people are told of it: the first that is found."""

_STATUS = re.compile(r"error=(\d{3})\b")


class AppriseChannels:
    """Each channel in a thread of its own: one that hangs delays no other, and not the end of the process either."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock

    async def tell(
        self, urls: Mapping[str, str], title: str, body: str, severity: Severity, within: timedelta
    ) -> Mapping[str, Told]:
        """What became of it at each channel; never raises for a channel's sake."""
        told = await asyncio.gather(*(self._one(url, title, body, severity, within) for url in urls.values()))
        return dict(zip(urls, told, strict=True))

    async def _one(self, url: str, title: str, body: str, severity: Severity, within: timedelta) -> Told:
        seconds = within.total_seconds()
        try:
            async with time_limit(seconds):
                error = await _in_a_thread(lambda: _deliver(url, title, body, severity, seconds))
        except TimeoutError:
            return Told(None, f"it did not answer within {seconds:g} s")
        return Told(self._clock.now()) if error is None else Told(None, error)


def problem_of(url: str) -> str | None:
    """Why no message could go to this URL, as far as can be told without sending one."""
    try:
        from apprise import Apprise
    except ImportError:
        return "Apprise is not installed here: install Relight's extra `notify`"
    with _listening():
        known = Apprise.instantiate(url) is not None
    return None if known else "its URL is none that Apprise knows: compare it with the documentation of the service"


def _deliver(url: str, title: str, body: str, severity: Severity, seconds: float) -> str | None:
    """Why it was not delivered, or None. Blocks; the sockets have time limits, so that the thread ends."""
    try:
        from apprise import Apprise, NotifyFormat, NotifyType
    except ImportError:
        return "Apprise is not installed here: install Relight's extra `notify`"
    kinds = {"info": NotifyType.INFO, "warning": NotifyType.WARNING, "critical": NotifyType.FAILURE}
    with _listening() as said:
        try:
            channel = Apprise.instantiate(url)
            if channel is None:
                return "its URL is none that Apprise knows: compare it with the documentation of the service"
            channel.socket_connect_timeout = channel.socket_read_timeout = seconds
            kind = kinds[severity]
            if channel.notify(body=body, title=title, notify_type=kind, body_format=NotifyFormat.TEXT):
                return None
        except Exception as error:  # noqa: BLE001  # a plugin's own fault is a delivery that failed, told without its words
            said.append(f"{type(error).__name__}: {error}")
    return _cause("\n".join(said))


def _cause(said: str) -> str:
    if found := _STATUS.search(said):
        return f"it answered with the status {found[1]}"
    return next(
        (words for pattern, words in CAUSES if re.search(pattern, said, re.IGNORECASE)),
        "it did not take the message; look into its own log",
    )


@contextlib.contextmanager
def _listening() -> Iterator[list[str]]:
    """What Apprise logs in this thread. It goes nowhere else: at some levels it holds whole URLs."""
    said: list[str] = []
    here = threading.get_ident()

    class Ear(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            if record.thread == here:
                said.append(record.getMessage())

    logger, ear = logging.getLogger("apprise"), Ear(logging.DEBUG)
    logger.propagate = False
    logger.setLevel(logging.DEBUG)
    logger.addHandler(ear)
    try:
        yield said
    finally:
        logger.removeHandler(ear)


async def _in_a_thread(work: Callable[[], T]) -> T:
    """The result, or the wait for it is cancelled and the thread's result is dropped. A daemon: it holds nobody up."""
    loop = asyncio.get_running_loop()
    future: asyncio.Future[T] = loop.create_future()

    def settle(result: T | None, error: BaseException | None) -> None:
        if future.done():
            return
        if error is not None:
            future.set_exception(error)
        else:
            future.set_result(result)  # type: ignore[arg-type]  # without an error there is a result

    def run() -> None:
        result: T | None = None
        failed: BaseException | None = None
        try:
            result = work()
        except BaseException as error:  # noqa: BLE001  # raised again where it is awaited
            failed = error
        with contextlib.suppress(RuntimeError):  # the loop has ended meanwhile: nobody waits any more
            loop.call_soon_threadsafe(settle, result, failed)

    threading.Thread(target=run, name=UNHEARD, daemon=True).start()
    return await future
