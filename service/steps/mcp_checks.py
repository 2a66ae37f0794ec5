"""The check of MCP servers: each one is connected to and lists the tools that the system's file expects of it."""

import asyncio
from datetime import timedelta
from urllib.parse import urlsplit

from schemas.base import Json
from schemas.checks import McpCheck
from schemas.system import System
from service.errors import Permanent, Retry, StepError
from service.ports import StepContext

SHARE = 0.8
"""The share of the step's timeout that the servers may take, all asked at once; the rest is for saying so."""
LONGEST = timedelta(seconds=10)
"""For one server: what answers takes milliseconds, and the second attempt is worth more than patience."""


def servers(system: System, check: McpCheck) -> tuple[str, ...]:
    """The names of the servers that a check asks."""
    return tuple(system.mcp) if check.mcp == "all" else (check.mcp,)


async def mcp(context: StepContext, check: McpCheck) -> tuple[Json, Json]:
    """The tools by server, and those expected. Raises Retry, or Permanent when no failure would pass by itself."""
    names = servers(context.system, check)
    if not names:
        raise Permanent(f"{check.title}: the file of {context.system.system} names no MCP server, so none was checked")
    answers = await asyncio.gather(*(_tools(context, name) for name in names))
    wrong: dict[str, StepError] = {}
    for name, answer in zip(names, answers, strict=True):
        if isinstance(answer, StepError):
            wrong[name] = answer
        elif missing := [tool for tool in context.system.mcp[name].tools if tool not in answer]:
            wrong[name] = Retry(f"it does not list {', '.join(missing)}, only {', '.join(answer) or 'nothing'}")
    if wrong:
        found_wrong = (f"{name} ({_place(context.system, name)}): {error}" for name, error in wrong.items())
        why = f"{check.title}: {'; '.join(found_wrong)}. Start the server, or make it reachable from this host"
        raise Permanent(why) if all(isinstance(error, Permanent) for error in wrong.values()) else Retry(why)
    found: dict[str, Json] = {
        name: list(answer) for name, answer in zip(names, answers, strict=True) if not isinstance(answer, StepError)
    }
    return found, {name: list(context.system.mcp[name].tools) for name in names}


def _place(system: System, name: str) -> str:
    """Where a person finds the server: its address without what may be secret in it, or the reference to it."""
    url = system.mcp[name].url
    if not url.startswith(("http://", "https://")):
        return url
    parts = urlsplit(url)
    return f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}{parts.path}"


async def _tools(context: StepContext, name: str) -> tuple[str, ...] | StepError:
    spec, resolve = context.system.mcp[name], context.world.secrets.resolve
    within = min(context.row.planned.timeout * SHARE, LONGEST)
    try:
        token = resolve(spec.token, context.system.folder) if spec.token is not None else None
        return await context.world.mcp.tools(resolve(spec.url, context.system.folder), token, within)
    except StepError as error:
        return error
