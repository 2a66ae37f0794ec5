"""The system snapshot: the sealed document made before a restart and checked after it. No I/O here.

It says what each component held and where that was written, so that the start can be compared with it.
"""

import hashlib
import json
from typing import Annotated, Literal

from pydantic import Field

from schemas.base import Json, Moment, Name, Open

Digest = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
"""SHA-256, hex."""


class ComponentSnapshot(Open):
    """One component at the moment of sealing. `digest` and `where` of what it flushed (absent: it flushes nothing, or
    did not run), `bytes` of it as read back, `values` as it measured them, `pid` and `started` of its process, `paused`
    the evidence of its pause. `kept`: the restart leaves it running. `running` is null where nobody looked.
    """

    kept: bool = False
    running: bool | None
    pid: int | None = None
    started: int | None = None
    digest: Digest | None = None
    where: str | None = None
    bytes: int | None = None
    values: dict[str, Json] = Field(default_factory=dict)
    paused: dict[str, Json] = Field(default_factory=dict)


class SystemSnapshot(Open):
    """What was known of a system right before it went down. `restart` is the id of that restart."""

    format: Literal[1] = 1
    system: Name
    restart: str
    config_hash: str
    at: Moment
    components: dict[Name, ComponentSnapshot]

    def canonical(self) -> bytes:
        """The bytes that are stored and hashed: keys sorted, no spaces, UTF-8, one line end."""
        text = json.dumps(self.model_dump(mode="json"), sort_keys=True, separators=(",", ":"), ensure_ascii=False)
        return text.encode() + b"\n"


def sha256(content: bytes) -> str:
    """The seal, hex."""
    return hashlib.sha256(content).hexdigest()
