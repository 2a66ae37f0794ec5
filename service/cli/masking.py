"""Secrets in what was found on a machine: known by their shape, and never repeated. Pure.

It hides rather too much than too little: whoever reads the file looks at the process itself for the rest.
"""

import re
from collections.abc import Sequence
from urllib.parse import urlsplit, urlunsplit

HIDDEN = "***"

_WORD = r"pass(?:word|wd|phrase)?|pwd|secret|token|(?:api|access|private)[_-]?key|credentials?|auth(?:orization)?|dsn"
_NAMED = re.compile(rf"(?i)^(-{{0,2}}[\w.-]*(?:{_WORD})[\w.-]*[=:])(.+)$", re.DOTALL)
_OPTION = re.compile(rf"(?i)^-{{1,2}}[\w.-]*(?:{_WORD})[\w.-]*$")
_USERINFO = re.compile(r"(?i)\b([a-z][a-z0-9+.-]*://)[^\s/@]*@")
_PARAMETER = re.compile(rf"(?i)([?&;\s][\w.-]*(?:{_WORD})[\w.-]*=)[^&;\s]+")
_SHORT = re.compile(r"^-p(?=.)")
"""`-psecret`, as the clients of MySQL take it."""
_LONG = re.compile(r"^(?=.*\d)(?=.*[A-Za-z])[A-Za-z0-9+/=_-]{32,}$")
"""An argument of nothing but a long row of letters and digits: keys look like that, and hardly anything else."""


def masked(words: Sequence[str]) -> tuple[str, ...]:
    """The argument list with `***` for what looks like a secret."""
    shown: list[str] = []
    hide = False
    for word in words:
        shown.append(HIDDEN if hide else _one(word))
        hide = bool(_OPTION.match(word))
    return tuple(shown)


def holds_secret(words: Sequence[str]) -> bool:
    """Whether any of the arguments looks like a secret."""
    return masked(words) != tuple(words)


def bare(url: str) -> str:
    """A URL without user, password, query and fragment: what may stand in a comment."""
    parts = urlsplit(url)
    place = parts.netloc.rpartition("@")[2]
    return urlunsplit((parts.scheme, place, parts.path, "", ""))


def _one(word: str) -> str:
    if _LONG.match(word):
        return HIDDEN
    word = _NAMED.sub(lambda found: found[1] + HIDDEN, word)
    word = _USERINFO.sub(lambda found: f"{found[1]}{HIDDEN}@", word)
    word = _PARAMETER.sub(lambda found: found[1] + HIDDEN, word)
    return f"-p{HIDDEN}" if _SHORT.match(word) and any(c.isdigit() for c in word) and not word[2:].isdigit() else word
