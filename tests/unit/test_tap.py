"""What arrives on a connection, sorted: deliveries to whom they belong, everything else to aiormq. No server."""

import asyncio
import random
import ssl
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from ipaddress import ip_address
from pathlib import Path
from typing import Any

import pamqp.frame
import pytest
from aiormq import AMQPConnectionError
from aiormq.abc import SSLCerts
from aiormq.connection import SSLContextProvider
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from pamqp import commands
from pamqp.body import ContentBody
from pamqp.header import ContentHeader
from yarl import URL

from service.adapters.rabbitmq.frames import read_content
from service.adapters.rabbitmq.tap import Tap, TappedTransport

HEARTBEAT = b"\x08\x00\x00\x00\x00\x00\x00\xce"
LANE, OTHER_LANE, PUBLISHING = 1, 2, 3


def message(channel: int, tag: int, body: bytes, frame: int = 100_000) -> list[bytes]:
    properties = commands.Basic.Properties(content_type="text/plain", message_id=str(tag), user_id="bench")
    frames = [
        commands.Basic.Deliver(f"queue-{channel}", tag, tag % 2 == 0, "relight.events", f"s{tag}.restart.requested"),
        ContentHeader(body_size=len(body), properties=properties),
        *(ContentBody(body[at : at + frame]) for at in range(0, len(body), frame)),
    ]
    return [pamqp.frame.marshal(one, channel) for one in frames]


async def sorted_out(pieces: list[bytes]) -> tuple[dict[int, list[Any]], bytes]:
    """What each tapped channel got, and what aiormq got of it all."""
    tap = Tap()
    got: dict[int, list[Any]] = {LANE: [], OTHER_LANE: []}
    for channel, messages in got.items():
        tap.listen(channel, lambda *parts, messages=messages: messages.append(parts))
    for piece in pieces:
        tap.feed_data(piece)
    tap.feed_eof()
    tap.feed_eof()  # as asyncio says it, once for the end of what is read and once for the end of the connection
    return got, await tap.read()


def mixed(random_: random.Random, streams: list[list[bytes]]) -> Iterator[bytes]:
    """Frames of several channels between each other, in order on each."""
    left = [list(stream) for stream in streams if stream]
    while left:
        stream = random_.choice(left)
        yield stream.pop(0)
        left = [one for one in left if one]


@pytest.mark.parametrize("seed", range(20))
async def test_however_the_bytes_are_cut_each_gets_what_is_its_own(seed: int) -> None:
    random_ = random.Random(seed)
    bodies = {
        channel: [random_.randbytes(random_.choice((0, 1, 50, 99, 100, 101, 350))) for _ in range(12)]
        for channel in (LANE, OTHER_LANE)
    }
    lanes = [
        [frame for tag, body in enumerate(bodies[channel], 1) for frame in message(channel, tag, body, 100)]
        for channel in bodies
    ]
    confirms = [pamqp.frame.marshal(commands.Basic.Ack(number, number % 3 == 0), PUBLISHING) for number in range(1, 30)]
    # A method that is no delivery, on a channel of deliveries, is aiormq's as well.
    answers = pamqp.frame.marshal(commands.Basic.QosOk(), LANE)
    data = answers + b"".join(mixed(random_, [*lanes, confirms]))
    cuts = sorted(random_.sample(range(1, len(data)), random_.choice((0, 3, 40, 400))))
    got, through = await sorted_out([data[at:to] for at, to in zip([0, *cuts], [*cuts, len(data)], strict=True)])
    for channel, expected in bodies.items():
        assert got[channel] == [
            (
                (f"queue-{channel}", tag, tag % 2 == 0, f"s{tag}.restart.requested"),
                (len(body), "text/plain", "bench"),
                body,
            )
            for tag, body in enumerate(expected, 1)
        ]
    assert through.replace(HEARTBEAT, b"") == answers + b"".join(confirms)


async def test_message_of_many_reads_is_whole_and_keeps_the_connection_alive() -> None:
    body = bytes(range(256)) * 4000
    data = b"".join(message(LANE, 1, body, frame=131_064))
    got, through = await sorted_out([data[at : at + 1000] for at in range(0, len(data), 1000)])
    assert [one[2] for one in got[LANE]] == [body]
    assert through.startswith(HEARTBEAT), "aiormq must see that the server lives"
    assert through.replace(HEARTBEAT, b"") == b""


@pytest.mark.parametrize(("every", "times"), [(0.0, 5), (3600.0, 1)])
async def test_server_that_only_delivers_is_seen_to_live_now_and_then(
    every: float, times: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("service.adapters.rabbitmq.tap.ALIVE", every)
    got, through = await sorted_out([b"".join(message(LANE, tag, b"body")) for tag in range(1, 6)])
    assert len(got[LANE]) == 5
    assert through == HEARTBEAT * times


async def test_end_in_the_midst_of_a_frame_is_no_ordinary_end() -> None:
    whole = pamqp.frame.marshal(commands.Basic.QosOk(), LANE)
    assert await sorted_out([whole + whole[:9]]) == ({LANE: [], OTHER_LANE: []}, whole + whole[:9])


async def test_peer_that_speaks_no_amqp_is_heard_by_aiormq() -> None:
    _, through = await sorted_out([b"AMQP", b"\x00\x00\x09\x01"])
    assert through.startswith(b"AMQP")


@pytest.mark.parametrize("scheme", ["amqp", "amqps"])
async def test_socket_is_opened_as_the_url_says_and_read_through_the_tap(scheme: str, tmp_path: Path) -> None:
    secured, trusting = certified(tmp_path)

    async def deliver(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(1)
        writer.write(b"".join(message(LANE, 1, b"body")) + pamqp.frame.marshal(commands.Basic.QosOk(), LANE))
        await writer.drain()
        writer.close()

    got: list[bytes] = []
    server = await asyncio.start_server(deliver, "127.0.0.1", 0, ssl=secured if scheme == "amqps" else None)
    async with server:
        port = server.sockets[0].getsockname()[1]
        transport = TappedTransport()
        url = URL(f"{scheme}://127.0.0.1:{port}")
        reader, writer = await transport.create(url, ssl_context_provider=provider(trusting))
        assert transport.tap is reader
        transport.tap.listen(LANE, lambda _, __, body: got.append(body))
        writer.write(b".")
        rest = await asyncio.wait_for(reader.read(), 10)
        writer.close()
    assert got == [b"body"]
    assert rest.replace(HEARTBEAT, b"") == pamqp.frame.marshal(commands.Basic.QosOk(), LANE)


async def test_refused_connection_is_an_error_of_aiormqs() -> None:
    with pytest.raises(AMQPConnectionError):
        await TappedTransport().create(URL("amqp://127.0.0.1:1"), ssl_context_provider=provider(None))


def provider(context: ssl.SSLContext | None) -> SSLContextProvider:
    """As aiormq's connection hands it to whoever opens its socket."""
    certificates = SSLCerts(cert=None, key=None, capath=None, cafile=None, cadata=None, verify=True)
    return SSLContextProvider(ssl_context=context, ssl_certs=certificates, loop=asyncio.get_running_loop())


def certified(folder: Path) -> tuple[ssl.SSLContext, ssl.SSLContext]:
    """A server's context with a certificate for 127.0.0.1, and a client's that trusts it."""
    key, name = ec.generate_private_key(ec.SECP256R1()), x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "test")])
    now = datetime.now(UTC)
    certificate = (
        x509.CertificateBuilder(name, name, key.public_key(), x509.random_serial_number())
        .not_valid_before(now - timedelta(days=1))
        .not_valid_after(now + timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.IPAddress(ip_address("127.0.0.1"))]), critical=False)
        .sign(key, hashes.SHA256())
    )
    pem = certificate.public_bytes(serialization.Encoding.PEM)
    private = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    file = folder / "server.pem"
    file.write_bytes(private + pem)
    server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    server.load_cert_chain(file)
    return server, ssl.create_default_context(cadata=pem.decode())


PROPERTIES: dict[str, Any] = {
    "content_type": "text/plain", "content_encoding": "gzip", "headers": {"a": [1, {"b": "c"}], "x": 5},
    "delivery_mode": 2, "priority": 3, "correlation_id": "c" * 255, "reply_to": "", "expiration": "60000",
    "message_id": "id", "message_type": "t", "user_id": "svc-deploy", "app_id": "app",
}  # fmt: skip


@pytest.mark.parametrize("seed", range(100))
def test_user_and_content_type_are_found_between_any_other_properties(seed: int) -> None:
    random_ = random.Random(seed)
    chosen = {name: value for name, value in PROPERTIES.items() if random_.random() < 0.6}
    header = ContentHeader(body_size=seed, properties=commands.Basic.Properties(**chosen))
    assert read_content(header.marshal()) == (seed, chosen.get("content_type"), chosen.get("user_id"))
