"""Values that must not be written down, as this process came to know them, and texts without them.

Whoever resolves a secret tells it here; every text that is kept, logged, published or shown passes `hide`. Nothing here
resolves, logs or shows anything.
"""

import base64
import html
import json
import re
from collections.abc import Iterator
from typing import Final
from urllib.parse import parse_qsl, quote, quote_plus, unquote, urlsplit

from schemas.base import Json

SHORTEST = 6
"""Characters of a value that is looked for. Shorter ones are no secrets worth the name, and stand in half of all words
and digests."""
LONGEST_VALUE = 64 * 1024
"""Characters of a value that are looked for at all; what is larger is a document, not a secret."""
TOKEN, MIXED_TOKEN = 16, 8
"""Characters from which a part of a URL counts as a token: any, and one with letters and digits."""
HIDDEN = "***"

_SERVERS = frozenset({"postgresql", "postgres", "amqp", "amqps"})
"""Schemes whose path names something, and never is a secret."""
_TELLING = re.compile(r"pass|pwd|token|key|secret|sig|auth|cred", re.IGNORECASE)
"""Names of parameters whose values are secrets however short they look."""
_CONNINFO = re.compile(r"\bpassword\s*=\s*(?:'((?:[^'\\]|\\.)*)'|(\S+))", re.IGNORECASE)
_SEPARATORS = re.compile(r"[\s@:/?#&=,;]+")
"""Where a careless reader of a URL cuts a password that was not encoded."""


class Masks:
    """The values known so far. What `hide` uses is replaced as a whole: it is called in several threads."""

    def __init__(self) -> None:
        self._words: frozenset[str] = frozenset()
        self._values: frozenset[str] = frozenset()
        self._pattern: re.Pattern[str] | None = None

    def learn(self, value: str) -> None:
        """From now on neither the value nor its secret parts are shown, in any of the usual spellings."""
        if value in self._values or not SHORTEST <= len(value) <= LONGEST_VALUE:
            return
        self._values |= {value}
        self._words |= {form for part in _parts(value) for form in _spellings(part) if len(form) >= SHORTEST}
        longest_first = sorted(self._words, key=lambda word: (-len(word), word))
        self._pattern = re.compile("|".join(map(re.escape, longest_first)))

    def hide(self, text: str, spare: str = "") -> str:
        """The text with `***` for every known value; one that stands in `spare`, which is public anyway, stays."""
        pattern = self._pattern
        if pattern is None:
            return text
        return pattern.sub(lambda found: found[0] if spare and found[0] in spare else HIDDEN, text)

    def hide_in(self, value: Json, spare: str = "") -> Json:
        """The same for every text in a JSON value, names included."""
        if self._pattern is None:
            return value
        match value:
            case str():
                return self.hide(value, spare)
            case list():
                return [self.hide_in(item, spare) for item in value]
            case dict():
                return {self.hide(key, spare): self.hide_in(item, spare) for key, item in value.items()}
            case _:
                return value


MASKS: Final = Masks()
"""Those of this process. One for all: a log line, a row and a terminal do not know whose secret they might hold."""


def _parts(value: str) -> Iterator[str]:
    """The value, and what of it is a secret by itself: a URL's password, its tokens, the lines of a key."""
    yield value
    yield value.strip()
    for quoted, bare in _CONNINFO.findall(value):
        yield from _password(quoted or bare)
    scheme, separator, rest = value.partition("://")
    if not separator or not scheme.replace("+", "").replace("-", "").isalnum():
        yield from (piece for piece in _SEPARATORS.split(value) if _is_token(piece))
        return
    # The last @ before what may follow the host: a password that was not encoded may hold all of them.
    who, at, _ = rest.rpartition("@")
    if at:
        # A server's user without a password is a name; alone in a channel's URL it may be its token.
        user = "" if scheme in _SERVERS else who
        yield from _password(who.partition(":")[2] or user)
    who = rest.partition("/")[0].rpartition("@")[0]
    yield from _password(who.partition(":")[2])
    yield from _tokens(value, scheme)


def _tokens(url: str, scheme: str) -> Iterator[str]:
    try:
        parts = urlsplit(url)
    except ValueError:
        return
    for name, text in parse_qsl(parts.query):
        if _TELLING.search(name) or (scheme not in _SERVERS and _is_token(text)):
            yield text
    if scheme not in _SERVERS:
        host = parts.netloc.rpartition("@")[2].partition(":")[0]
        place = "" if "." in host or scheme in ("http", "https") else host
        for piece in (*parts.path.split("/"), parts.username or "", place, parts.fragment):
            if _is_token(piece):
                yield piece
                yield unquote(piece)


def _password(written: str) -> Iterator[str]:
    """As it was written and as it was meant, and each piece of it that a misreading would leave."""
    for text in {written, unquote(written)}:
        yield text
        yield from (piece for piece in _SEPARATORS.split(text) if _is_token(piece))


def _is_token(text: str) -> bool:
    mixed = any(c.isdigit() for c in text) and any(c.isalpha() for c in text)
    return len(text) >= (MIXED_TOKEN if mixed else TOKEN)


def _spellings(word: str) -> Iterator[str]:
    """How programs and libraries write a text: as it is, for URLs, in JSON, Python and HTML, base64 and hex."""
    yield word
    for encoded in (quote(word, safe=""), quote(word), quote_plus(word)):
        yield encoded
        yield re.sub(r"%[0-9A-F]{2}", lambda found: found[0].lower(), encoded)
    yield json.dumps(word)[1:-1]
    yield json.dumps(word, ensure_ascii=False)[1:-1]
    yield repr(word)[1:-1]
    yield html.escape(word)
    raw = word.encode("utf-8", "surrogateescape")
    yield raw.hex()
    for shift in range(3):
        # In the middle of a longer text (`user:password`) it is the same but for the characters it shares at its ends.
        text = base64.b64encode(bytes(shift) + raw).decode()
        inner = text[-(-shift * 8 // 6) : (shift + len(raw)) * 8 // 6]
        yield inner
        yield inner.replace("+", "-").replace("/", "_")
