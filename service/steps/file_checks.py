"""The checks of files: `files` (can they be used) and `config` (are they what they were). What becomes of a finding is
its caller's business."""

from pathlib import PurePosixPath

from schemas.base import Json
from schemas.checks import ConfigCheck, FilesCheck
from schemas.system import System
from service.errors import Missing, Permanent, Retry
from service.ports import StepContext
from service.steps.naming import record

Finding = tuple[Json, Json]
"""(what was found, what was expected)."""


async def files(context: StepContext, check: FilesCheck) -> Finding:
    """Raises Permanent when it cannot be used as `access` says, Retry when too little is free, or when it is there and
    should not be."""
    path = _path(context.system, check.files)
    if check.access == "absent":
        return await _absent(context, check, path)
    state = await context.world.files.tried(path, write=check.access == "rw")
    if state.free < check.free:
        raise Retry(f"{check.title}: {state.free} bytes are free there, expected at least {check.free}")
    return {"access": check.access, "free": state.free}, {"access": check.access, "free": check.free}


async def _absent(context: StepContext, check: FilesCheck, path: str) -> Finding:
    try:
        await context.world.files.tried(path, write=False)
    except Missing:
        return {"access": "absent"}, {"access": "absent"}
    raise Retry(f"{check.title}: it is there")


async def config(context: StepContext, check: ConfigCheck) -> Finding:
    """Raises Permanent when the file is another one than the fixed or the last good hash says."""
    found = await context.world.files.sha256(_path(context.system, check.config))
    if check.sha256 != "last_good":
        if found != check.sha256:
            raise Permanent(f"{check.title}: its SHA-256 is {found}, the file says {check.sha256}")
        return found, check.sha256
    good = record(context.data, "good").get(check.config)
    if good is None:
        return found, "the first one seen"
    if found != good:
        raise Permanent(
            f"{check.title}: its SHA-256 is {found}, when the system was last verified it was {good}. Put the old one "
            "back and retry, or `adopt` the system as it stands, and this one becomes the good one"
        )
    return found, good


def _path(system: System, written: str) -> str:
    """Relative paths are below the folder of the system's file."""
    return str(PurePosixPath(system.folder) / written)
