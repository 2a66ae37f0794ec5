"""Where messages arrive in tests: an SMTP and an HTTP server on loopback, and one that never answers. No judging."""

import contextlib
import json
import socket
import socketserver
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from email import message_from_bytes, policy
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


class Mail(socketserver.ThreadingTCPServer):
    """Takes every mail. `mails` are those that arrived: (recipients, subject, text)."""

    allow_reuse_address = daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Dialogue)
        self.mails: list[tuple[tuple[str, ...], str, str]] = []

    @property
    def url(self) -> str:
        """As an Apprise URL, with a password that must be seen nowhere."""
        port = self.server_address[1]
        return (
            f"mailto://relay:hush-hush-mail@127.0.0.1:{port}/?from=relight@example.org&to=ops@example.org&mode=insecure"
        )


class _Dialogue(socketserver.StreamRequestHandler):
    server: Mail

    def handle(self) -> None:
        self._say("220 ready")
        recipients: list[str] = []
        while line := self.rfile.readline():
            match line.split(b" ")[0].strip().upper():
                case b"EHLO":
                    self._say("250-hello\r\n250 AUTH PLAIN LOGIN")
                case b"AUTH":
                    self._say("235 welcome")
                case b"RCPT":
                    recipients.append(line.decode().split("<")[1].split(">")[0])
                    self._say("250 ok")
                case b"DATA":
                    self._say("354 go on")
                    self.server.mails.append((tuple(recipients), *self._mail()))
                    self._say("250 taken")
                case b"QUIT":
                    self._say("221 bye")
                    return
                case _:
                    self._say("250 ok")

    def _mail(self) -> tuple[str, str]:
        lines: list[bytes] = []
        while (line := self.rfile.readline()) not in (b".\r\n", b""):
            lines.append(line.removeprefix(b"."))
        mail = message_from_bytes(b"".join(lines), policy=policy.default)
        body = mail.get_body(("plain", "html"))
        return str(mail["Subject"]), body.get_content() if body is not None else ""

    def _say(self, text: str) -> None:
        self.wfile.write(text.encode() + b"\r\n")


class Hook(ThreadingHTTPServer):
    """Takes every POST, or answers `status` instead. `posts` are the JSON bodies that arrived."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Post)
        self.posts: list[dict[str, Any]] = []
        self.status = 200

    @property
    def url(self) -> str:
        """As an Apprise URL, with a token in its path that must be seen nowhere."""
        return f"json://127.0.0.1:{self.server_address[1]}/hush-hush-token"


class _Post(BaseHTTPRequestHandler):
    server: Hook

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        if self.server.status == 200:
            self.server.posts.append(json.loads(body))
        self.send_response(self.server.status)
        self.end_headers()

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002  # the name is the base class's
        pass


@contextmanager
def mail() -> Iterator[Mail]:
    with _serving(Mail()) as server:
        yield server


@contextmanager
def hook() -> Iterator[Hook]:
    with _serving(Hook()) as server:
        yield server


@contextmanager
def mute() -> Iterator[str]:
    """The URL of a server that takes connections and never says a word."""
    with contextlib.closing(socket.create_server(("127.0.0.1", 0))) as listener:
        yield f"json://127.0.0.1:{listener.getsockname()[1]}/hush-hush-mute"


@contextmanager
def nobody() -> Iterator[str]:
    """The URL of a port at which nobody listens: it stays bound, so that nobody else comes there either."""
    with contextlib.closing(socket.socket()) as bound:
        bound.bind(("127.0.0.1", 0))
        yield f"json://127.0.0.1:{bound.getsockname()[1]}/hush-hush-dead"


@contextmanager
def _serving(server: Any) -> Iterator[Any]:
    with server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
        thread.start()
        try:
            yield server
        finally:
            server.shutdown()
            thread.join()
