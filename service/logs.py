"""How log lines are made: event names and fields, by structlog, also for libraries that log the standard way.

Nothing here decides what is logged. Passwords in URLs and known secrets are cut out of every line, whoever wrote it.
"""

import json
import logging
import re
import sys
import traceback
from collections.abc import Mapping, MutableMapping
from types import TracebackType
from typing import Any, TextIO

import structlog

from service.masking import MASKS
from service.settings import LogFormat, Logs
from service.visible import in_json, in_one_line, visible

PASSWORD = re.compile(r"(?P<before>\b[a-z][a-z0-9+.-]*://[^\s:/@]*):[^\s@/]*@", re.IGNORECASE)

QUIET = ("aio_pika", "aiormq", "asyncio", "uvicorn", "transitions")
"""Libraries whose information is noise to an operator; their warnings stay."""


UNHEARD = "relight-unheard"
"""The name of threads whose libraries log nothing here: while they reach people they log whole URLs, tokens and all."""


OUR_OWN = ("at", "level")
"""Fields that hold words of our own, whatever somebody chose as a password."""


def redact(text: str) -> str:
    """The text with every password of a URL, and every secret that this process has resolved, replaced by `***`."""
    return PASSWORD.sub(r"\g<before>:***@", MASKS.hide(text))


def redact_tracebacks() -> None:
    """What ends this process unforeseen is told on standard error without secrets, too."""

    def tell(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
        sys.stderr.write(visible(redact("".join(traceback.format_exception(kind, error, trace)))))

    sys.excepthook = tell


def _redacted(value: object) -> object:
    match value:
        case str():
            return redact(value)
        case Mapping():
            return {_redacted(key): _redacted(inner) for key, inner in value.items()}
        case list() | tuple():
            return [_redacted(inner) for inner in value]
        case None | bool() | int() | float():
            return value
        case _:
            return redact(str(value))


def _redact_event(_: Any, __: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    return {key: value if key.startswith("_") or key in OUR_OWN else _redacted(value) for key, value in event.items()}


def _visible_event(_: Any, __: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    """For a terminal: what strangers wrote steers nobody's screen, and forges no line. A traceback has lines."""
    return {key: _shown(value) if key != "exception" else visible(str(value)) for key, value in event.items()}


def _shown(value: object) -> object:
    match value:
        case str():
            return in_one_line(value)
        case dict():
            return {_shown(key): _shown(inner) for key, inner in value.items()}
        case list():
            return [_shown(inner) for inner in value]
        case _:
            return value


def _as_json(event: Any, **options: Any) -> str:
    return in_json(json.dumps(event, **options))


def configure(logs: Logs, stream: TextIO | None = None) -> None:
    """Sets up structlog and the root logger of this process, writing to `stream` (standard error)."""
    stream = stream or sys.stderr
    as_text = logs.log_format is LogFormat.TEXT or (logs.log_format is LogFormat.AUTO and stream.isatty())
    shared: list[structlog.typing.Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.stdlib.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True, key="at"),
        structlog.processors.StackInfoRenderer(),
        structlog.processors.format_exc_info,
    ]
    last: list[structlog.typing.Processor] = (
        [_visible_event, structlog.dev.ConsoleRenderer(colors=stream.isatty(), timestamp_key="at")]
        if as_text
        else [structlog.processors.JSONRenderer(serializer=_as_json, ensure_ascii=False)]
    )
    handler = logging.StreamHandler(stream)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=shared,
            processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, _redact_event, *last],
        )
    )
    handler.addFilter(lambda record: record.threadName != UNHEARD)
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(logs.log_level.upper())
    for name in QUIET:
        logging.getLogger(name).setLevel(logging.WARNING)
    structlog.configure(
        processors=[*shared, structlog.stdlib.ProcessorFormatter.wrap_for_formatter],
        wrapper_class=structlog.make_filtering_bound_logger(logging.getLevelName(logs.log_level.upper())),
        logger_factory=structlog.stdlib.LoggerFactory(),
        cache_logger_on_first_use=False,
    )
