"""Every kind of storage a test may want to hold to the same promises, S3 as a real HTTP server in this process.

`open_uploads` counts what was begun and neither finished nor taken back, on whatever kind.
"""

import os
import secrets
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from service.adapters.files import FileStorage
from service.adapters.memory.storage import MemoryStorage
from service.adapters.s3 import S3Storage
from service.adapters.storage import StorageByScheme
from service.ports import Storage

BUCKET = "relight-tests"


@dataclass(frozen=True)
class Kept:
    """A storage, a place in it (a URL without a slash at its end), and a look behind it."""

    storage: Storage
    place: str
    open_uploads: Callable[[], Awaitable[int]]


@contextmanager
def s3_server() -> Iterator[str]:
    """The endpoint of an S3 server of its own."""
    from moto.server import ThreadedMotoServer

    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    try:
        _, port = server.get_host_and_port()
        yield f"http://127.0.0.1:{port}"
    finally:
        server.stop()


async def bucket(endpoint: str, patch: pytest.MonkeyPatch) -> None:
    """An empty bucket, and the AWS environment that leads to it."""
    for name in [name for name in os.environ if name.startswith("AWS_")]:
        patch.delenv(name)
    patch.setenv("AWS_ENDPOINT_URL", endpoint)
    patch.setenv("AWS_ACCESS_KEY_ID", "tests")
    patch.setenv("AWS_SECRET_ACCESS_KEY", "canary-of-s3")
    patch.setenv("AWS_DEFAULT_REGION", "us-east-1")
    async with _client() as s3:
        if BUCKET not in [found["Name"] for found in (await s3.list_buckets())["Buckets"]]:
            await s3.create_bucket(Bucket=BUCKET)


def _client():  # type: ignore[no-untyped-def]  # aioboto3 has no types
    import aioboto3

    return aioboto3.Session().client("s3")


async def on_s3(place: str) -> Kept:
    async def uploads() -> int:
        async with _client() as s3:
            return len((await s3.list_multipart_uploads(Bucket=BUCKET)).get("Uploads", ()))

    return Kept(StorageByScheme({"s3": S3Storage()}), f"s3://{BUCKET}/{place}", uploads)


def on_files(folder: Path) -> Kept:
    async def asides() -> int:
        return len([path for path in folder.rglob(".*") if path.is_file()])

    return Kept(StorageByScheme({"file": FileStorage()}), (folder / "kept").as_uri(), asides)


def in_memory() -> Kept:
    async def none() -> int:
        return 0

    return Kept(MemoryStorage(), "file:///kept", none)


async def stream(*parts: bytes, error: BaseException | None = None) -> AsyncIterator[bytes]:
    """The parts, and then the error if there is one."""
    for part in parts:
        yield part
    if error is not None:
        raise error


@pytest.fixture(scope="module")
def endpoint() -> Iterator[str]:
    """One S3 server for a file."""
    with s3_server() as url:
        yield url


@pytest.fixture(params=["file", "s3", "memory"])
async def everywhere(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Kept:
    """Each kind of storage. A file that takes this fixture takes `endpoint` too, by its name."""
    if request.param == "file":
        return on_files(tmp_path)
    if request.param == "memory":
        return in_memory()
    await bucket(request.getfixturevalue("endpoint"), monkeypatch)
    return await on_s3(secrets.token_hex(4))
