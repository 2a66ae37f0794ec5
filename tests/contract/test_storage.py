"""Storage: documents and streams on files, on S3 over real HTTP, and in memory keep the same promises."""

import asyncio
import hashlib
import secrets
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from service.adapters.files import FileStorage
from service.adapters.s3 import PART, S3Storage
from service.adapters.storage import StorageByScheme
from service.errors import Missing, Permanent, Retry
from tests import storages
from tests.storages import Kept, bucket, on_s3, stream

endpoint, kept = storages.endpoint, storages.everywhere


async def read(kept: Kept, url: str) -> bytes:
    return b"".join([part async for part in kept.storage.read_stream(url)])


async def test_document_is_replaced_as_a_whole(kept: Kept) -> None:
    url = f"{kept.place}/deep/one.json"
    await kept.storage.write(url, b"first, and longer")
    await kept.storage.write(url, b"\x00second\xff")
    assert await kept.storage.read(url) == await read(kept, url) == b"\x00second\xff"


async def test_stream_is_read_as_it_was_written_with_its_size_and_digest(kept: Kept) -> None:
    url, parts = f"{kept.place}/big.dump", [secrets.token_bytes(3 << 20) for _ in range(7)]
    whole = b"".join(parts)
    assert await kept.storage.write_stream(url, stream(*parts)) == (len(whole), hashlib.sha256(whole).hexdigest())
    assert await read(kept, url) == whole
    sizes = [len(part) async for part in kept.storage.read_stream(url)]
    assert len(sizes) > 1
    assert max(sizes) <= PART
    assert await kept.open_uploads() == 0


async def test_stream_without_a_byte_is_an_empty_document(kept: Kept) -> None:
    url = f"{kept.place}/empty"
    assert await kept.storage.write_stream(url, stream()) == (0, hashlib.sha256().hexdigest())
    assert await kept.storage.read(url) == await read(kept, url) == b""


async def test_stream_that_fails_leaves_what_was_there_and_nothing_half(kept: Kept) -> None:
    url = f"{kept.place}/big.dump"
    await kept.storage.write_stream(url, stream(b"whole"))
    with pytest.raises(Retry, match="pg_dump ended"):
        await kept.storage.write_stream(url, stream(bytes(9 << 20), error=Retry("pg_dump ended")))
    assert await read(kept, url) == b"whole"
    assert [stored.url for stored in await kept.storage.list(f"{kept.place}/")] == [url]
    assert await kept.open_uploads() == 0


async def test_cancelled_stream_leaves_nothing(kept: Kept) -> None:
    begun = asyncio.Event()

    async def never_ends() -> AsyncIterator[bytes]:
        yield bytes(9 << 20)
        begun.set()
        await asyncio.sleep(3600)

    writing = asyncio.create_task(kept.storage.write_stream(f"{kept.place}/big.dump", never_ends()))
    async with asyncio.timeout(30):
        await begun.wait()
    writing.cancel()
    with pytest.raises(asyncio.CancelledError):
        await writing
    assert await kept.storage.list(f"{kept.place}/") == ()
    assert await kept.open_uploads() == 0


async def test_stream_that_is_cancelled_again_and_again_while_it_begins_leaves_nothing(kept: Kept) -> None:
    async def nothing_yet() -> AsyncIterator[bytes]:
        await asyncio.sleep(3600)
        yield b""

    # Where its time is over, two limits end it a moment apart: the adapter's and that of the whole step.
    for moment in (0.0, 0.001, 0.003, 0.01, 0.03, 0.1):
        writing = asyncio.create_task(kept.storage.write_stream(f"{kept.place}/big.dump", nothing_yet()))
        await asyncio.sleep(moment)
        for _ in range(3):
            writing.cancel()
            await asyncio.sleep(0)
        with pytest.raises(asyncio.CancelledError):
            await writing
        assert await kept.open_uploads() == 0, moment
    assert await kept.storage.list(f"{kept.place}/") == ()


async def test_list_names_what_begins_so_with_its_size(kept: Kept) -> None:
    for name in ("r1-a.dump", "r1-b.dump", "r10.json", "r2.dump", "deep/r1.dump"):
        await kept.storage.write(f"{kept.place}/{name}", name.encode())
    found = await kept.storage.list(f"{kept.place}/r1-")
    assert [(stored.url.rsplit("/", 1)[1], stored.bytes) for stored in found] == [("r1-a.dump", 9), ("r1-b.dump", 9)]
    assert len(await kept.storage.list(f"{kept.place}/")) == 5
    assert await kept.storage.list(f"{kept.place}/nothing-like-this/") == ()


async def test_deleted_document_is_missing_and_deleting_twice_is_no_error(kept: Kept) -> None:
    url = f"{kept.place}/one"
    await kept.storage.write(url, b"x")
    await kept.storage.delete(url)
    await kept.storage.delete(url)
    for reading in (kept.storage.read(url), read(kept, url)):
        with pytest.raises(Missing, match="No such file"):
            await reading


async def test_place_of_no_scheme_or_another_is_refused(kept: Kept) -> None:
    for url in ("http://127.0.0.1/x", "/plain/path"):
        with pytest.raises(Permanent, match="no place for documents"):
            await kept.storage.write(url, b"")
        with pytest.raises(Permanent, match="no place for documents"):
            await kept.storage.write_stream(url, stream(b""))


async def test_each_scheme_has_its_own_adapter(tmp_path: Path, endpoint: str, monkeypatch: pytest.MonkeyPatch) -> None:
    await bucket(endpoint, monkeypatch)
    both, s3 = StorageByScheme({"file": FileStorage(), "s3": S3Storage()}), await on_s3("routed")
    await both.write((tmp_path / "one").as_uri(), b"here")
    await both.write(f"{s3.place}/one", b"there")
    assert (tmp_path / "one").read_bytes() == b"here"
    assert await s3.storage.read(f"{s3.place}/one") == b"there"


async def test_bucket_that_is_not_there_is_permanent_and_named(endpoint: str, monkeypatch: pytest.MonkeyPatch) -> None:
    await bucket(endpoint, monkeypatch)
    with pytest.raises(Permanent, match="s3://no-such-bucket/x: S3 refused: NoSuchBucket"):
        await S3Storage().write_stream("s3://no-such-bucket/x", stream(b"x"))


async def test_s3_that_is_away_is_tried_again_and_its_credentials_are_not_said(
    endpoint: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    await bucket(endpoint, monkeypatch)
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:1")
    with pytest.raises(Retry, match="S3 is away") as away:
        await S3Storage().write("s3://anything/x", b"x")
    assert "canary" not in str(away.value)
