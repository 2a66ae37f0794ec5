"""The check of MCP servers: each one is connected to and lists the tools that the system's file expects of it."""

import asyncio
from dataclasses import dataclass
from datetime import timedelta
from urllib.parse import urlsplit

from schemas.base import Json
from schemas.checks import McpCheck
from schemas.system import System
from service.errors import Permanent, Retry, StepError
from service.ports import StepContext, World

SHARE = 0.8
"""The share of the step's timeout that the servers may take, all asked at once; the rest is for saying so."""
LONGEST = timedelta(seconds=10)
"""For one address of a server: what answers takes milliseconds, and the second attempt is worth more than patience."""


@dataclass(frozen=True, slots=True)
class Answered:
    """The tools that a server lists. `instead`: its backup answered, and why, in words; empty when the first did."""

    tools: tuple[str, ...]
    instead: str = ""


def servers(system: System, check: McpCheck) -> tuple[str, ...]:
    """The names of the servers that a check asks."""
    return tuple(system.mcp) if check.mcp == "all" else (check.mcp,)


async def mcp(context: StepContext, check: McpCheck) -> tuple[Json, Json, str]:
    """The tools by server, those expected, and in words which backups answered instead of their server.

    Raises Retry, or Permanent when no failure would pass by itself.
    """
    names, system = servers(context.system, check), context.system
    if not names:
        raise Permanent(f"{check.title}: the file of {system.system} names no MCP server, so none was checked")
    within = context.row.planned.timeout * SHARE
    answers = await asyncio.gather(*(_asked(context.world, system, name, within) for name in names))
    wrong: dict[str, StepError] = {
        name: answer for name, answer in zip(names, answers, strict=True) if isinstance(answer, StepError)
    }
    if wrong:
        found_wrong = (f"{name} {error}" for name, error in wrong.items())
        why = f"{check.title}: {'; '.join(found_wrong)}. Start the server, or make it reachable from this host"
        raise Permanent(why) if all(isinstance(error, Permanent) for error in wrong.values()) else Retry(why)
    good = {name: one for name, one in zip(names, answers, strict=True) if isinstance(one, Answered)}
    found: dict[str, Json] = {name: list(one.tools) for name, one in good.items()}
    instead = "; ".join(f"{name} {one.instead}" for name, one in good.items() if one.instead)
    return found, {name: list(system.mcp[name].tools) for name in names}, instead


async def ask(world: World, system: System, name: str, within: timedelta) -> Answered:
    """The server's tools, all that are expected among them. Its backup is asked when nobody answers at its first
    address; each address has at most half of `within` then.

    Raises Retry or Permanent, beginning with the address in brackets.
    """
    spec = system.mcp[name]
    if spec.backup is None:
        return Answered(await _tools(world, system, name, spec.url, min(within, LONGEST)))
    each = min(within / 2, LONGEST)
    try:
        return Answered(await _tools(world, system, name, spec.url, each))
    except _Unreachable as first:
        gone = first
    try:
        tools = await _tools(world, system, name, spec.backup, each)
    except StepError as second:
        # Whatever the backup says, the server itself may be back soon.
        raise Retry(f"{gone}; nor its backup {second}") from second
    return Answered(tools, f"answered at its backup ({place(spec.backup)}), not {gone}")


def place(url: str) -> str:
    """Where a person finds a server: its address without what may be secret in it, or the reference to it."""
    if not url.startswith(("http://", "https://")):
        return url
    parts = urlsplit(url)
    return f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}{parts.path}"


class _Unreachable(Retry):
    """Nobody answered at an address: the one failure that a backup is for."""


async def _asked(world: World, system: System, name: str, within: timedelta) -> Answered | StepError:
    try:
        return await ask(world, system, name, within)
    except StepError as error:
        return error


async def _tools(world: World, system: System, name: str, url: str, within: timedelta) -> tuple[str, ...]:
    spec, resolve = system.mcp[name], world.secrets.resolve
    try:
        token = resolve(spec.token, system.folder) if spec.token is not None else None
        found = await world.mcp.tools(resolve(url, system.folder), token, within)
    except Permanent as error:
        raise Permanent(f"({place(url)}): {error}") from error
    except StepError as error:
        raise _Unreachable(f"({place(url)}): {error}") from error
    if missing := [tool for tool in spec.tools if tool not in found]:
        raise Retry(f"({place(url)}): it does not list {', '.join(missing)}, only {', '.join(found) or 'nothing'}")
    return found
