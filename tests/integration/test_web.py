"""Health and metrics over real HTTP on loopback."""

import asyncio
import json
import socket
import urllib.error
import urllib.request
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from unittest.mock import create_autospec

import pytest
from prometheus_client import CollectorRegistry, Counter

from service.errors import RelightError
from service.web import Health, Web, listen, listen_from, url_of

REGISTRY = CollectorRegistry()
SEEN = Counter("relight_seen", "For this test", ("what",), registry=REGISTRY)


@asynccontextmanager
async def serving(health: Health) -> AsyncIterator[Web]:
    web = Web(listen("127.0.0.1", 0), lambda: health, REGISTRY)
    task = asyncio.create_task(web.serve())
    try:
        yield web
    finally:
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task


async def get(web: Web, path: str) -> tuple[int, str, str]:
    def ask() -> tuple[int, str, str]:
        try:
            with urllib.request.urlopen(web.url + path, timeout=10) as answer:
                return answer.status, answer.headers["content-type"], answer.read().decode()
        except urllib.error.HTTPError as error:
            return error.code, error.headers["content-type"], error.read().decode()

    return await asyncio.to_thread(ask)


async def test_well_process_is_alive_and_ready() -> None:
    async with serving(Health({"postgres": None, "consuming": None})) as web:
        assert (await get(web, "/livez"))[0] == 200
        status, kind, body = await get(web, "/readyz")
        assert (status, kind) == (200, "application/json")
        assert json.loads(body) == {"ready": True, "reasons": [], "checks": {"postgres": "ok", "consuming": "ok"}}


async def test_unready_process_says_why_and_stays_alive() -> None:
    async with serving(Health({"postgres": "refused since 01:45; waiting for it", "consuming": None})) as web:
        assert (await get(web, "/livez"))[0] == 200
        status, _, body = await get(web, "/readyz")
        assert status == 503
        assert json.loads(body)["reasons"] == ["postgres: refused since 01:45; waiting for it"]


async def test_process_that_only_an_end_helps_is_not_alive() -> None:
    async with serving(Health({}, alive="the loop stood still for 2 minutes")) as web:
        status, _, body = await get(web, "/livez")
        assert status == 503
        assert json.loads(body)["reasons"] == ["the loop stood still for 2 minutes"]
        assert (await get(web, "/readyz"))[0] == 503


async def test_metrics_are_what_prometheus_reads() -> None:
    SEEN.labels(what="restart").inc(3)
    async with serving(Health()) as web:
        status, kind, body = await get(web, "/metrics")
    assert status == 200
    assert kind.startswith("text/plain")
    assert 'relight_seen_total{what="restart"} 3.0' in body


async def test_other_paths_are_not_found() -> None:
    async with serving(Health()) as web:
        assert (await get(web, "/"))[0] == 404


async def test_taken_port_is_an_error_for_people() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(RelightError, match=rf"cannot serve health at 127\.0\.0\.1:{port}: .* RELIGHT_HTTP_PORT"):
            listen("127.0.0.1", port)


async def test_next_free_port_is_taken_at_once_and_the_search_ends() -> None:
    with listen_from("127.0.0.1", 20_000) as first:
        port = first.getsockname()[1]
        with listen_from("127.0.0.1", port) as second:
            assert second.getsockname()[1] > port
        with pytest.raises(RelightError, match="no free port"):
            listen_from("127.0.0.1", port, tries=1)


def test_url_has_the_port_that_was_found_and_is_one_for_ipv6_too() -> None:
    with listen("127.0.0.1", 0) as found:
        assert url_of(found) == f"http://127.0.0.1:{found.getsockname()[1]}"
        assert not url_of(found).endswith(":0")
    sixth = create_autospec(socket.socket, instance=True)
    sixth.getsockname.return_value = ("::1", 8410, 0, 0)
    assert url_of(sixth) == "http://[::1]:8410"


async def test_port_is_free_again_after_the_end() -> None:
    async with serving(Health()) as web:
        port = int(web.url.rpartition(":")[2])
        await get(web, "/livez")
    with socket.socket() as again:
        again.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        again.bind(("127.0.0.1", port))
