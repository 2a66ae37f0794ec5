"""The small environment with which every child of Relight begins. What Relight itself was given stays out of it."""

import os
import sys
from pathlib import Path

PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
"""Where a Debian keeps its programs, for a Relight that was started with none."""

KEPT = ("HOME", "USER", "LOGNAME", "TMPDIR", "TZ", "RELIGHT_POSTGRES_BIN")
"""Variables of Relight's own environment that a child may see; passwords and URLs are never among them."""


def base_environment() -> dict[str, str]:
    """`python` on its PATH is the Python that Relight runs on, so that a system's file need not know where that is."""
    found = {name: os.environ[name] for name in KEPT if name in os.environ}
    path = f"{Path(sys.executable).parent}:{os.environ.get('PATH') or PATH}"
    return {"LANG": "C.UTF-8", "LC_ALL": "C.UTF-8", "TZ": "UTC", **found, "PATH": path}
