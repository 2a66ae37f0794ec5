"""The HTTP server for /livez, /readyz and /metrics. It answers from memory: a slow database never makes it slow."""

import asyncio
import contextlib
import socket
from collections.abc import Callable, Iterator
from typing import ClassVar

import uvicorn
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.exposition import CONTENT_TYPE_LATEST
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from service.errors import RelightError
from service.web.health import Health

CLOSE_WITHIN = 2
"""Seconds that requests under way get when the server ends: they answer from memory, so this is plenty."""

HIGHEST_PORT = 32_767
"""From 32768 on the kernel hands ports out to outgoing connections."""


class _Server(uvicorn.Server):
    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield  # signals belong to the process as a whole, not to one of its parts


class Web:
    """Serves until cancelled. `health` is asked at every request and must answer at once."""

    HEADERS: ClassVar[dict[str, str]] = {"cache-control": "no-store"}

    def __init__(self, listening: socket.socket, health: Callable[[], Health], registry: CollectorRegistry) -> None:
        self.url = url_of(listening)
        """Where it answers."""
        self._listening = listening
        self._health = health
        self._registry = registry

    async def serve(self) -> None:
        """Answers requests until cancelled, and closes its socket then. Raises RelightError when it cannot start."""
        server = _Server(
            uvicorn.Config(
                self._app(),
                log_config=None,
                access_log=False,
                lifespan="off",
                timeout_graceful_shutdown=CLOSE_WITHIN,
                server_header=False,
            )
        )
        running = asyncio.create_task(self._run(server), name="web")
        try:
            await asyncio.shield(running)
        except asyncio.CancelledError:
            server.should_exit = True
            await asyncio.wait({running}, timeout=CLOSE_WITHIN + 1)
            running.cancel()
            raise
        finally:
            self._listening.close()

    async def _run(self, server: uvicorn.Server) -> None:
        try:
            await server.serve(sockets=[self._listening])
        except SystemExit as error:
            # uvicorn ends the whole process when it cannot start; here only this part has failed.
            raise RelightError(f"the health page at {self.url} could not start (uvicorn exit {error.code})") from None

    def _app(self) -> Starlette:
        return Starlette(
            routes=[
                Route("/livez", self._livez, methods=["GET"]),
                Route("/readyz", self._readyz, methods=["GET"]),
                Route("/metrics", self._metrics, methods=["GET"]),
            ]
        )

    async def _livez(self, _: Request) -> Response:
        # That this coroutine runs shows that the process's loop turns.
        health = self._health()
        well = health.alive is None
        body = {"live": well} if well else {"live": False, "reasons": [health.alive]}
        return JSONResponse(body, 200 if well else 503, self.HEADERS)

    async def _readyz(self, _: Request) -> Response:
        health = self._health()
        body = {
            "ready": health.ready,
            "reasons": list(health.reasons),
            "checks": {name: why or "ok" for name, why in health.checks.items()},
        }
        return JSONResponse(body, 200 if health.ready else 503, self.HEADERS)

    async def _metrics(self, _: Request) -> Response:
        return Response(generate_latest(self._registry), 200, self.HEADERS, CONTENT_TYPE_LATEST)


def listen(host: str, port: int) -> socket.socket:
    """A listening socket; port 0 is any free one. Raises RelightError, worded for people, when it cannot be had."""
    try:
        family = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0][0]
        found = socket.socket(family, socket.SOCK_STREAM)
    except OSError as error:
        raise RelightError(f"cannot serve health at {host}:{port}: {error}; set RELIGHT_HTTP_HOST") from error
    try:
        found.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        found.bind((host, port))
        found.listen(128)
    except OSError as error:
        found.close()
        raise RelightError(
            f"cannot serve health at {host}:{port}: {error.strerror or error}; "
            "end what listens there, or set RELIGHT_HTTP_PORT to another port"
        ) from error
    found.setblocking(False)
    return found


def listen_from(host: str, first: int, tries: int = 100) -> socket.socket:
    """A listening socket on the first free port from `first` on. Raises RelightError when none of `tries` is."""
    for port in range(first, min(first + tries, HIGHEST_PORT + 1)):
        with contextlib.suppress(RelightError):
            return listen(host, port)
    raise RelightError(f"no free port for the health page from {first} on; set RELIGHT_HTTP_PORT")


def url_of(listening: socket.socket) -> str:
    """Where a listening socket is reached over HTTP, as `http://host:port`."""
    host, port, *_ = listening.getsockname()
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"
