"""Texts of strangers as a terminal may show them: what would steer it is written out. No secret is known here."""

import re

_STEERING = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f"  # escape sequences, carriage returns, backspaces, and their eight-bit kin
    "\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069"  # the direction of writing, by which words change places
    "\u2028\u2029\ufeff\ud800-\udfff]"  # other line ends, an invisible mark, halves of characters
)
"""Characters that are not shown but obeyed. Line ends and tabs are left to whoever lays the text out."""


def visible(text: str) -> str:
    """The text with `\\x1b` instead of an escape, `\\u202e` instead of a turn of direction."""
    return _STEERING.sub(_written_out, text)


def in_one_line(text: str) -> str:
    """The same, with `\\n` instead of a line end: what is shown as one line stays one, and forges no second."""
    return visible(text).replace("\n", "\\n")


def in_json(document: str) -> str:
    """A JSON text that means the same: characters that a terminal would obey, and JSON allows, as their escapes."""
    return _STEERING.sub(lambda found: f"\\u{ord(found[0]):04x}", document)


def _written_out(found: re.Match[str]) -> str:
    number = ord(found[0])
    return f"\\x{number:02x}" if number < 0x100 else f"\\u{number:04x}"
