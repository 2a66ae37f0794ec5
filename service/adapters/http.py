"""The port `Http`: one request to one address, never another. What an answer means is its caller's business."""

from collections.abc import Mapping
from datetime import timedelta
from typing import TYPE_CHECKING

from service.errors import Permanent, Retry
from service.ports import HttpAnswer
from service.timeouts import time_limit

if TYPE_CHECKING:
    import aiohttp

KEPT = 64 * 1024
"""Bytes kept of an answer's body; the connection is closed over the rest."""


class HttpRequests:
    """Each request has a connection of its own: they are rare, and one that broke spoils no other.

    Proxies of the environment and cookies are not used: what is told reaches the component that the file names.
    """

    async def send(
        self, method: str, url: str, headers: Mapping[str, str], body: bytes | None, timeout: timedelta
    ) -> HttpAnswer:
        """The answer, whatever its status. Raises Retry when nobody answered in time, Permanent for what is no URL and
        for a certificate that is not valid; neither says more of the URL than host and port, the rest may be secret.
        """
        import aiohttp  # a fifth of a second that only those pay who use it

        try:
            async with (
                time_limit(timeout.total_seconds()),
                aiohttp.ClientSession(
                    connector=aiohttp.TCPConnector(force_close=True),
                    cookie_jar=aiohttp.DummyCookieJar(),
                    headers={"User-Agent": "relight"},
                    timeout=aiohttp.ClientTimeout(total=None),
                ) as session,
                session.request(method, url, headers=headers, data=body, allow_redirects=False) as answer,
            ):
                return HttpAnswer(
                    answer.status, await _head(answer), answer.content_type, answer.headers.get("Location")
                )
        except TimeoutError as error:
            raise Retry(f"no answer within {timeout.total_seconds():g} s") from error
        except aiohttp.ClientConnectorCertificateError as error:
            raise Permanent(f"the certificate of {error.host} is not valid: {error.certificate_error}") from error
        except aiohttp.InvalidURL as error:
            raise Permanent("what the file names is no URL that can be asked") from error
        except aiohttp.ClientConnectorError as error:
            raise Retry(f"{error.host}:{error.port} does not answer: {error.os_error}") from error
        except (aiohttp.ClientError, OSError) as error:
            raise Retry(f"the connection broke before the answer: {type(error).__name__}") from error


async def _head(answer: "aiohttp.ClientResponse") -> bytes:
    kept = bytearray()
    async for chunk in answer.content.iter_chunked(KEPT):
        kept += chunk[: KEPT - len(kept)]
        if len(kept) >= KEPT:
            break
    return bytes(kept)
