"""Participants over HTTP on a real server: what is sent, what each answer means, and what silence leads to."""

import asyncio
import contextlib
import hashlib
import json
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from pathlib import Path

import pytest

from schemas.components import OnSilence
from schemas.system import System
from service.adapters.files import FileStorage
from service.adapters.http import KEPT, HttpRequests
from service.adapters.memory.world import MemoryWorld
from service.clock import SystemClock
from service.embedded.ports import free_port
from service.errors import Permanent, Retry
from service.ports import SILENT, Waiting
from service.steps.asking import Unheard
from tests.performing import Bench

LONG = timedelta(seconds=10)


@dataclass
class Request:
    """What arrived: method, path, headers in lower case, body."""

    method: str
    path: str
    headers: dict[str, str]
    body: bytes


@dataclass
class Server:
    """A server that answers as `say` has it, byte for byte, and remembers every request."""

    port: int = 0
    heard: list[Request] = field(default_factory=list)
    say: Callable[[Request], Awaitable[bytes]] | bytes = b"HTTP/1.1 204 No Content\r\n\r\n"

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError, asyncio.IncompleteReadError):
            head = (await reader.readuntil(b"\r\n\r\n")).decode()
            first, *lines = head.strip().split("\r\n")
            headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
            body = await reader.readexactly(int(headers.get("content-length", 0)))
            request = Request(*first.split(" ")[:2], headers, body)
            self.heard.append(request)
            writer.write(self.say if isinstance(self.say, bytes) else await self.say(request))
            await writer.drain()
        writer.close()

    def answers(self, status: int, body: object = None, *headers: str) -> None:
        text = body if isinstance(body, bytes) else b"" if body is None else json.dumps(body).encode()
        lines = [f"HTTP/1.1 {status} X", f"Content-Length: {len(text)}", "Content-Type: application/json", *headers]
        self.say = "\r\n".join([*lines, "", ""]).encode() + text

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"


@pytest.fixture
async def server() -> AsyncIterator[Server]:
    made = Server()
    listening = await asyncio.start_server(made.serve, "127.0.0.1", 0)
    made.port = listening.sockets[0].getsockname()[1]
    yield made
    listening.close()


@pytest.fixture
async def desk(server: Server) -> Bench:
    """A system whose reporter is told by HTTP alone; it runs."""
    told = {name: {"http": f"POST :{server.port}/{name}", "within": "2s"} for name in ("pause", "flush", "resume")}
    system = System.model_validate(
        {
            "system": "desk",
            "storage": {"state": "file:///var/desk"},
            "components": {
                "reporter": {
                    "process": ["reporter"],
                    "participant": {**told, "report": {"http": f"GET :{server.port}/report?key=hush"}},
                }
            },
            "verify": [{"roundtrip": "reporter", "within": "2s"}],
        }
    )
    clock = SystemClock()
    memory = MemoryWorld(clock)

    async def nobody(command_id: str, waiting: Waiting) -> dict[str, bool]:
        return dict(SILENT)  # type: ignore[arg-type]

    world = replace(memory.world(), http=HttpRequests(), storage=FileStorage())
    bench = Bench(system, world, clock, nobody)
    await bench.world.processes.start("desk.reporter", ["reporter"], {}, ".")
    return bench


async def test_command_is_the_json_body_and_its_id_the_idempotency_key(server: Server, desk: Bench) -> None:
    assert await desk.perform("participant.pause", "reporter", lease=600.0) == {"by": "http"}
    (request,) = server.heard
    assert (request.method, request.path) == ("POST", "/pause")
    data = json.loads(request.body)
    assert data["commandid"] == request.headers["idempotency-key"] == "lifecycle/desk:1:participant.pause:reporter"
    assert (data["system"], data["component"], data["command"]) == ("desk", "reporter", "pause")
    assert (data["token"], data["arguments"]) == (1, {"lease": 600.0})
    assert timedelta(0) < datetime.fromisoformat(data["expires"]) - desk.clock.now() <= timedelta(seconds=2)
    assert request.headers["content-type"] == "application/json"


async def test_repeated_command_has_the_same_id_and_a_higher_token(server: Server, desk: Bench) -> None:
    await desk.perform("participant.pause", "reporter")
    await desk.perform("participant.pause", "reporter")
    first, second = (json.loads(request.body) for request in server.heard)
    assert first["commandid"] == second["commandid"]
    assert first["token"] < second["token"]


async def test_json_object_is_the_answer_and_other_words_only_say_done(server: Server, desk: Bench) -> None:
    server.answers(200, {"detail": "2 running", "values": {"pages": 3}, "more": 1})
    assert await desk.perform("participant.report", "reporter") == {
        "by": "http", "detail": "2 running", "values": {"pages": 3},
    }  # fmt: skip
    for words in (b"ok", b"[1]", b'"paused"'):
        server.answers(200, words)
        assert await desk.perform("participant.pause", "reporter") == {"by": "http"}


async def test_get_has_no_body_and_still_names_the_command(server: Server, desk: Bench) -> None:
    await desk.perform("participant.report", "reporter")
    (request,) = server.heard
    assert (request.method, request.path, request.body) == ("GET", "/report?key=hush", b"")
    assert request.headers["idempotency-key"].endswith("participant.report:reporter")


async def test_flush_is_read_back_like_any_other(server: Server, desk: Bench, tmp_path: Path) -> None:
    (tmp_path / "state").write_bytes(b"what it held")
    where, digest = (tmp_path / "state").as_uri(), hashlib.sha256(b"what it held").hexdigest()
    server.answers(200, {"where": where, "digest": digest})
    assert (await desk.perform("participant.flush", "reporter"))["read_back"] is True
    server.answers(200, {"where": where, "digest": "0" * 64})
    with pytest.raises(Permanent, match="read back it is"):
        await desk.perform("participant.flush", "reporter")


async def test_refusal_in_words_or_by_status_is_permanent_and_failure_is_tried_again(
    server: Server, desk: Bench
) -> None:
    server.answers(200, {"outcome": "refused", "detail": "month end"})
    with pytest.raises(Permanent, match="refused to pause: month end"):
        await desk.perform("participant.pause", "reporter")
    server.answers(409, b"month end is running")
    with pytest.raises(Permanent, match="answered 409, saying: month end is running"):
        await desk.perform("participant.pause", "reporter")
    for status in (429, 500, 503):
        server.answers(status, b"busy")
        with pytest.raises(Retry, match=f"answered {status}, saying: busy") as error:
            await desk.perform("participant.pause", "reporter")
        # It was heard: that is no silence, and on_silence has nothing to say about it.
        assert not isinstance(error.value, Unheard)


async def test_redirect_is_not_followed(server: Server, desk: Bench) -> None:
    server.answers(307, None, f"Location: {server.url}/elsewhere")
    with pytest.raises(Permanent, match="a redirect, which is not followed"):
        await desk.perform("participant.pause", "reporter")
    assert [request.path for request in server.heard] == ["/pause"]


async def test_what_is_no_answer_of_a_participant_is_permanent(server: Server, desk: Bench) -> None:
    for body in ({"values": 1}, {"digest": "short"}, b"{broken"):
        server.answers(200, body)
        with pytest.raises(Permanent, match="cannot be read"):
            await desk.perform("participant.pause", "reporter")


async def test_secret_of_the_url_is_in_no_error(server: Server, desk: Bench) -> None:
    server.answers(404, b"not here")
    with pytest.raises(Permanent, match=r"at http://127.0.0.1:\d+/report, which answered 404") as error:
        await desk.perform("participant.report", "reporter")
    assert "hush" not in str(error.value)
    assert "hush" not in desk.plan("participant.report", "reporter")


async def test_silence_is_tried_again_and_then_decided_by_the_file(desk: Bench, server: Server) -> None:
    async def never(_: Request) -> bytes:
        await asyncio.sleep(60)
        return b""

    server.say = never
    pause = desk.actions["participant.pause"]
    for attempt, on_silence in ((1, OnSilence.PROCEED), (2, OnSilence.ABORT)):
        context = desk.context(
            "participant.pause", "reporter", timeout=0.5, attempt=attempt, attempts=2, on_silence=on_silence
        )
        with pytest.raises(Unheard, match=r"no answer within 0.45 s"):
            await pause.perform(context)
    context = desk.context(
        "participant.pause", "reporter", timeout=0.5, attempt=2, attempts=2, on_silence=OnSilence.PROCEED
    )
    waiting = await pause.perform(context)
    assert isinstance(waiting, Waiting)
    assert (waiting.whom, waiting.until <= desk.clock.now()) == ("reporter", True)
    killed = await desk.perform("participant.pause", "reporter", timeout=0.5, on_silence=OnSilence.KILL)
    assert (killed["silent"], killed["killed"]) == (True, True)


async def test_round_trip_over_http_is_a_check_like_any_other(server: Server, desk: Bench) -> None:
    server.answers(200, {})
    assert (await desk.perform("check.run", check=0))["passed"] is True
    server.answers(500, b"no")
    with pytest.raises(Retry, match="answered 500"):
        await desk.perform("check.run", check=0)


# ---- the adapter alone


async def test_nobody_there_a_connection_cut_and_a_server_that_hangs_are_tried_again(server: Server) -> None:
    http = HttpRequests()
    with pytest.raises(Retry, match="does not answer"):
        await http.send("POST", f"http://127.0.0.1:{free_port()}/", {}, b"", LONG)
    server.say = b""
    with pytest.raises(Retry, match="the connection broke"):
        await http.send("POST", server.url, {}, b"", LONG)

    async def slowly(_: Request) -> bytes:
        await asyncio.sleep(60)
        return b""

    server.say = slowly
    began = time.monotonic()
    with pytest.raises(Retry, match=r"no answer within 0.3 s"):
        await http.send("POST", server.url, {}, b"", timedelta(seconds=0.3))
    assert time.monotonic() - began < 3


async def test_body_that_never_ends_is_read_to_the_limit_and_no_further(server: Server) -> None:
    server.say = b"HTTP/1.1 200 OK\r\nContent-Length: 1000000000\r\n\r\n" + b"x" * (KEPT + 5000)
    answer = await HttpRequests().send("POST", server.url, {}, b"", LONG)
    assert (answer.status, len(answer.body)) == (200, KEPT)


@pytest.mark.parametrize("url", ["http://[half/", "http:///nowhere", "http://127.0.0.1:99999/"])
async def test_url_that_is_none_is_permanent(url: str) -> None:
    with pytest.raises(Permanent, match="no URL"):
        await HttpRequests().send("POST", url, {}, b"", LONG)


async def test_proxy_of_the_environment_is_not_asked(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy"):
        monkeypatch.setenv(name, f"http://127.0.0.1:{free_port()}")
    assert (await HttpRequests().send("POST", server.url, {}, b"", LONG)).status == 204
