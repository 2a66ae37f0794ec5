"""The port `Storage` for `s3://bucket/key` URLs, and the only room of S3's clients. Other schemes have their own rooms.

Endpoint, region and credentials come from the usual AWS environment (`AWS_ENDPOINT_URL`, `AWS_PROFILE`, …).
"""

import asyncio
import base64
import contextlib
import hashlib
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable
from typing import Any, TypeVar
from urllib.parse import urlsplit

from service.cancellation import begun, to_the_end
from service.errors import Missing, Permanent, Retry
from service.ports import Stored
from service.timeouts import time_limit

PART = 8 << 20
"""Bytes of a stream that are held and sent at a time; S3's least is 5 MiB."""
GROWS_AFTER = 2500
"""Parts after which their size doubles: S3 takes 10,000, so that 300 GiB fit and memory stays below two of 64 MiB."""
LARGEST = 1 << 30
"""Bytes of a document that is read whole: it is held in memory to be hashed."""
WITHIN = 120.0
"""Seconds for one request, its retries included; a store that hangs must not hold a step for ever."""
ABORT_WITHIN = 10.0
"""Seconds for taking back what was half sent, while something else already failed or was cancelled."""
CONNECT_WITHIN, READ_WITHIN, TRIES = 5, 30, 3

AWAY = frozenset(
    {"SlowDown", "ServiceUnavailable", "InternalError", "RequestTimeout", "OperationAborted", "503", "500"}
)
"""Codes that time may mend."""
GONE = frozenset({"NoSuchKey", "404"})

T = TypeVar("T")


class S3Storage:
    """Objects of any S3 server. An object appears whole or not at all; a client lives as long as one call."""

    def __init__(self) -> None:
        self._session: Any = None  # aioboto3 carries no types, and costs 0.3 s to import: only when it is needed

    async def write(self, url: str, content: bytes) -> None:
        """Atomic; the server compares the SHA-256. Raises Retry (away, busy), Permanent (no bucket, not allowed)."""
        bucket, key = _place(url)
        digest = _checksum(hashlib.sha256(content))
        async with self._client(url) as s3:
            await _ask(url, lambda: s3.put_object(Bucket=bucket, Key=key, Body=content, ChecksumSHA256=digest))

    async def read(self, url: str) -> bytes:
        """The whole object. Raises Missing when it is not there, Permanent: not allowed, larger than a gigabyte."""
        size, parts = 0, []
        async for part in self.read_stream(url):
            size += len(part)
            if size > LARGEST:
                raise Permanent(f"{url} has more than {LARGEST} bytes; it is not read as a whole")
            parts.append(part)
        return b"".join(parts)

    async def write_stream(self, url: str, chunks: AsyncIterator[bytes]) -> tuple[int, str]:
        """Sent in parts, each with its SHA-256; it appears only once `chunks` ended well. Raises as `write`, and what
        `chunks` raises; then the parts are taken back."""
        bucket, key = _place(url)
        async with self._client(url) as s3:
            asked = {"Bucket": bucket, "Key": key}
            # The server begins it all the same: it must not stay.
            created = await begun(
                _ask(url, lambda: s3.create_multipart_upload(**asked, ChecksumAlgorithm="SHA256")),
                lambda made: _take_back(s3, {**asked, "UploadId": made["UploadId"]}),
            )
            upload = {**asked, "UploadId": created["UploadId"]}
            try:
                size, digest, parts = await _send(url, s3, upload, chunks)
                await _ask(url, lambda: s3.complete_multipart_upload(**upload, MultipartUpload={"Parts": parts}))
            except BaseException:
                await _take_back(s3, upload)
                raise
            found = await _ask(url, lambda: s3.head_object(Bucket=bucket, Key=key))
        if found["ContentLength"] != size:
            raise Retry(f"{url}: {size} bytes were sent, and the server has {found['ContentLength']}")
        return size, digest

    async def read_stream(self, url: str) -> AsyncGenerator[bytes, None]:
        """The object in parts of at most 8 MiB, each asked for by itself. Raises as `read`; Retry when it was replaced
        meanwhile."""
        bucket, key = _place(url)
        async with self._client(url) as s3:
            head = await _ask(url, lambda: s3.head_object(Bucket=bucket, Key=key))
            for start in range(0, head["ContentLength"], PART):
                span = f"bytes={start}-{min(start + PART, head['ContentLength']) - 1}"

                async def part(span: str = span) -> bytes:
                    got = await s3.get_object(Bucket=bucket, Key=key, Range=span, IfMatch=head["ETag"])
                    async with got["Body"] as body:
                        content: bytes = await body.read()
                        return content

                yield await _ask(url, part)

    async def list(self, prefix: str) -> tuple[Stored, ...]:
        """Every object whose URL begins with `prefix`, by URL."""
        bucket, key = _place(prefix, whole=False)
        found: list[Stored] = []
        after: dict[str, str] = {}
        async with self._client(prefix) as s3:
            while True:
                page = await _ask(
                    prefix,
                    lambda after=after: s3.list_objects_v2(Bucket=bucket, Prefix=key, **after),  # type: ignore[misc]
                )
                found += [Stored(f"s3://{bucket}/{item['Key']}", item["Size"]) for item in page.get("Contents", ())]
                if not page.get("IsTruncated"):
                    return tuple(found)
                after = {"ContinuationToken": page["NextContinuationToken"]}

    async def delete(self, url: str) -> None:
        """Gone afterwards, whether it was there or not."""
        bucket, key = _place(url)
        async with self._client(url) as s3:
            await _ask(url, lambda: s3.delete_object(Bucket=bucket, Key=key))

    @contextlib.asynccontextmanager
    async def _client(self, url: str) -> AsyncIterator[Any]:
        if self._session is None:
            self._session = await asyncio.to_thread(_session)
        from botocore.config import Config
        from botocore.exceptions import BotoCoreError

        config = Config(
            connect_timeout=CONNECT_WITHIN,
            read_timeout=READ_WITHIN,
            retries={"max_attempts": TRIES, "mode": "standard"},
            # Checksums of our own go with every upload; further ones only where an operation demands them, because
            # not every S3 server knows the newest.
            request_checksum_calculation="when_required",
            response_checksum_validation="when_required",
        )
        try:
            client = await self._session.client("s3", config=config).__aenter__()
        except (BotoCoreError, ValueError) as error:
            raise Permanent(f"{url}: the AWS environment is not usable: {error}") from error
        try:
            yield client
        finally:
            await client.__aexit__(None, None, None)


def _session() -> Any:
    try:
        import aioboto3
    except ImportError as error:
        raise Permanent("s3:// needs the package aioboto3; install relight with its extra s3") from error
    return aioboto3.Session()


def _place(url: str, *, whole: bool = True) -> tuple[str, str]:
    parts = urlsplit(url)
    bucket, key = parts.netloc, url.removeprefix(f"s3://{parts.netloc}").removeprefix("/")
    if parts.scheme != "s3" or not bucket or (whole and not key):
        raise Permanent(f"{url!r} is no place for documents here; it is written s3://bucket/key")
    return bucket, key


def _checksum(digest: "hashlib._Hash") -> str:
    return base64.b64encode(digest.digest()).decode()


async def _send(
    url: str, s3: Any, upload: dict[str, str], chunks: AsyncIterator[bytes]
) -> tuple[int, str, list[dict[str, Any]]]:
    size, whole, parts = 0, hashlib.sha256(), list[dict[str, Any]]()

    async def send(content: bytes) -> None:
        number = len(parts) + 1
        sum_ = _checksum(await asyncio.to_thread(_both, whole, content))
        sent = await _ask(url, lambda: s3.upload_part(**upload, PartNumber=number, Body=content, ChecksumSHA256=sum_))
        parts.append({"PartNumber": number, "ETag": sent["ETag"], "ChecksumSHA256": sum_})

    held = bytearray()
    async for chunk in chunks:
        size += len(chunk)
        held += chunk
        while len(held) >= (full := PART << (len(parts) // GROWS_AFTER)):
            await send(bytes(held[:full]))
            del held[:full]
    if held or not parts:
        await send(bytes(held))
    return size, whole.hexdigest(), parts


def _both(whole: "hashlib._Hash", content: bytes) -> "hashlib._Hash":
    whole.update(content)
    return hashlib.sha256(content)


async def _take_back(s3: Any, upload: dict[str, str]) -> None:
    """Ends the upload, also when this task is being cancelled; its failure must not hide why it was ended."""

    async def abort() -> None:
        with contextlib.suppress(Exception):  # the bucket's own rule for unfinished uploads takes what is left
            async with time_limit(ABORT_WITHIN):
                await s3.abort_multipart_upload(**upload)

    await to_the_end(abort())


async def _ask(url: str, request: Callable[[], Awaitable[T]]) -> T:
    """The answer. Errors name the place and S3's code; they carry no credentials."""
    from botocore.exceptions import BotoCoreError, ClientError, HTTPClientError, NoCredentialsError

    try:
        async with time_limit(WITHIN):
            return await request()
    except TimeoutError as error:
        raise Retry(f"{url}: S3 did not answer within {WITHIN:.0f} s") from error
    except ClientError as error:
        raise _said(url, error.response) from error
    except NoCredentialsError as error:
        raise Permanent(f"{url}: no AWS credentials; set AWS_PROFILE, or AWS_ACCESS_KEY_ID and its secret") from error
    except (HTTPClientError, BotoCoreError, OSError) as error:
        raise Retry(f"{url}: S3 is away: {error}") from error


def _said(url: str, response: Any) -> Exception:
    said = response.get("Error", {})
    code, message = str(said.get("Code", "")), str(said.get("Message", ""))
    status = response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0)
    if code in GONE:
        # The same words as for a file, so that whoever reads knows what is meant.
        return Missing(f"{url}: No such file or directory ({code})")
    if code in AWAY or status >= 500 or code in ("PreconditionFailed", "412", "BadDigest"):
        return Retry(f"{url}: S3 refused for now: {code} {message}".rstrip())
    return Permanent(f"{url}: S3 refused: {code} {message}".rstrip())
