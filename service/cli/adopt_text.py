"""The system's file that `relight adopt` writes: YAML with a comment at each line that says where it was found. Pure.

What cannot be seen from outside has a safe value, a comment, and a line in the list of what is to be decided.
"""

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass

from service.cli.adopt_found import Found, FoundDatabase, circles, needs
from service.cli.masking import masked
from service.steps.foreseeing import amount

ORDINARY = frozenset(
    {
        "HOME", "USER", "LOGNAME", "PATH", "SHELL", "TERM", "LANG", "LANGUAGE", "PWD", "OLDPWD", "SHLVL", "TZ",
        "TMPDIR", "MAIL", "EDITOR", "HOSTNAME", "COLORTERM", "_", "DISPLAY", "SSH_AUTH_SOCK", "SSH_CONNECTION",
        "SSH_CLIENT", "SSH_TTY", "DBUS_SESSION_BUS_ADDRESS", "INVOCATION_ID", "JOURNAL_STREAM", "PYTHONUNBUFFERED",
        "VIRTUAL_ENV", "PS1", "LS_COLORS", "DEBIAN_FRONTEND", "PGAPPNAME",
    }
)  # fmt: skip
"""Variables that a component hardly ever means; all others are named, never with their values."""


@dataclass(frozen=True, slots=True)
class Draft:
    """The text, the variables that have to be set (name, for what), and what a person has to decide."""

    text: str
    variables: tuple[tuple[str, str], ...]
    decide: tuple[str, ...]


def draft(name: str, found: Found, host: str, when: str) -> Draft:
    """The file of a system called `name`, found on `host` at `when`. Without a component it says nothing useful."""
    lines = [
        f"# {name}, as `relight adopt` found it on {_plain(host)}, {when}. Each line says where it was found; what",
        "# cannot be seen from outside is commented out: see `to decide` at the end.",
        f"system: {name}",
        "zone: UTC",
        "",
        *_allow(),
        *_databases(found),
        *_mcp(found),
        "storage: # not found, decided: system snapshots and reports, below this file's folder",
        f'  state: "file://./state/{name}"',
        '  # backups: "s3://bucket/prefix" # needed by restart.backup; a disk away from the database\'s own',
        "",
        *_components(found),
        *_restart(found),
        *_verify(found),
        "",
        *(f"# - {_plain(line)}" for line in ("to decide:", *_decide(found))),
    ]
    variables = tuple((one.reference.removeprefix("env:"), one.place) for one in _used(found) if not one.given)
    urls = tuple((one.url.removeprefix("env:"), one.given) for one in found.mcp if one.url.startswith("env:"))
    return Draft("\n".join(lines) + "\n", variables + urls, tuple(_decide(found)))


def _used(found: Found) -> tuple[FoundDatabase, ...]:
    return tuple(one for one in found.databases if one.left_out is None)


def _allow() -> list[str]:
    return [
        "# Nobody was found who may: without these keys only the command line of this machine may ask for a restart.",
        "# allow: {restart: [ana], act: [ana], approve: {by: [lead], within: 15m, on_silence: deny}}",
        '# channels: {warning: ["env:MAIL"], critical: ["env:SMS"]} # Apprise URLs: who is told',
        "",
    ]


def _databases(found: Found) -> Iterator[str]:
    used = _used(found)
    if used:
        pinned = [one for one in used if one.identifier is not None]
        if pinned:
            yield "identity: # the server's system_identifier, as it answered: another one is never stopped or dumped"
            yield from (f"  {one.name}: {_quoted(str(one.identifier))}" for one in pinned)
            yield ""
        yield "databases: # secrets are references: env:NAME or file:path"
        for one in used:
            size = "size not shown to our role" if one.bytes is None else amount(one.bytes)
            about = f"{one.database} on {one.place}, PostgreSQL {one.version}, {size}"
            yield f"  {one.name}: {{url: {_quoted(one.reference)}}} # {_plain(about)}"
            yield from (f"    # connected: {_plain(line)}" for line in one.sessions)
    for one in found.databases:
        if one.left_out is not None:
            yield f"# left out: {_plain(f'{one.database} on {one.place}: {one.left_out}')}"
    yield from (f"# ground: {_plain(line)}" for line in found.grounds)
    if found.databases:
        yield ""


def _mcp(found: Found) -> Iterator[str]:
    if not found.mcp:
        return
    yield "mcp:"
    for one in found.mcp:
        said = f"it did not answer: {one.problem}" if one.problem else "the tools that it listed"
        tools = f", tools: [{', '.join(map(_quoted, one.tools))}]" if one.tools else ""
        yield f"  {one.name}: {{url: {_quoted(one.url)}{tools}}} # given as {_plain(one.given)}; {_plain(said)}"
    yield ""


def _components(found: Found) -> Iterator[str]:
    wanted, shown = needs(found), [one for one in found.components if one.reason is None]
    abouts = {unit.name: unit.about for unit in found.units}
    if shown:
        yield "components: # started by needs, stopped in reverse"
    for one in shown:
        ports = f", listens on {', '.join(map(str, one.ports))}" if one.ports else ""
        more = f", with {len(one.pids) - 1} processes below it" if len(one.pids) > 1 else ""
        yield f"  {one.name}: # pid {one.pid} of {_plain(one.user)}{ports}{more}; found by {_plain(one.found_by)}"
        if one.unit is not None:
            yield f"    unit: {_quoted(one.unit)} # {_plain(abouts.get(one.unit, ''))}; systemd starts and stops it"
        else:
            yield f"    process: [{', '.join(map(_quoted, one.command))}] # its argument list"
            yield f"    cwd: {_quoted(one.folder)} # its working folder"
        if mine := wanted.get(one.name):
            yield f"    needs: [{', '.join(need.name for need in mine)}]"
            yield from (f"      # {need.name}: {_plain(need.seen)}" for need in mine)
        yield "    on_silence: abort # not found, decided: the careful one of abort, proceed, kill"
        yield "    # participant: {pause: {signal: USR1}, resume: {signal: USR2}} # see docs/participants.md"
        if one.unit is None and (
            odd := [name for name in one.variables if name not in ORDINARY and not name.startswith(("RELIGHT_", "LC_"))]
        ):
            yield "    # env: # it was started with these, which our own shell lacks; no value was kept"
            yield from (f'    #   {name}: "env:{name}"' for name in odd if re.fullmatch(r"[A-Za-z_]\w*", name))
    yield ""
    left = [one for one in found.components if one.reason is not None]
    for one in left:
        yield f"# left out: pid {one.pid} of {_plain(one.user)}: {_plain(' '.join(masked(one.command)))}"
        yield f"#   because {_plain(str(one.reason))}"
    units = [unit for unit in found.units if unit.reason is not None]
    for unit in units:
        yield f"# left out: {_plain(unit.name)}: {_plain(unit.about)}"
        yield f"#   because {_plain(str(unit.reason))}"
    if left or units:
        yield ""


def _restart(found: Found) -> Iterator[str]:
    names = ", ".join(one.name for one in _used(found))
    yield "restart: # not found, decided: Relight's careful defaults"
    yield "  notice: {lead: 15m, delivery: best_effort}"
    yield "  limits: {drain: 5m, stop: 2m, start: 3m, verify: 3m, downtime: 10m}"
    if names:
        yield f"  # backup: {{databases: [{names}], reuse_within: 3h}} # needs storage.backups"
    yield ""


def _verify(found: Found) -> Iterator[str]:
    yield "verify: # what can be asked of it without knowing it; add what says that the business works"
    for one in _used(found):
        yield f'  - {{sql: {one.name}, query: "select 1", is: 1}} # it answers, no more'
    folders = dict.fromkeys(one.folder for one in found.components if one.reason is None and one.unit is None)
    for folder in folders:
        yield f"  - {{files: {_quoted(folder)}, access: r}} # the folder of a component"
    if found.mcp:
        yield "  - {mcp: all} # every server answers and lists its tools"


def _decide(found: Found) -> Iterator[str]:
    yield "allow: who may ask for a restart, act, approve; now only this machine's command line"
    yield "channels: who is told before a restart, and who is called when it fails; now nobody"
    shown = [one for one in found.components if one.reason is None]
    for one in shown:
        env = ", env" if one.unit is None else ""
        yield f"{one.name}: participant (how it is paused and told to flush; now not at all), on_silence{env}"
    if _used(found):
        yield "verify: a query that shows that the business works; `select 1` only shows that the database answers"
        yield "restart.backup and storage.backups: without them nothing is dumped before a restart"
    else:
        yield "verify: a check that shows that the business works; now only that folders can be read"
    if units := [one.unit for one in shown if one.unit is not None]:
        yield (
            f"{', '.join(units)}: whether the user of `relight serve` may start and stop them (root may; else a rule "
            "of polkit, see docs/participants.md)"
        )
    if theirs := [one for one in shown if one.unit is None]:
        names = ", ".join(f"{one.name} (pid {one.pid})" for one in theirs)
        yield (
            f"{names}: runs without Relight. Relight takes over nothing that it did not start, and starts no second "
            "copy: until you end it and let `relight serve` start it, the system is degraded and cannot be restarted"
        )
    yield from circles(found)
    yield from found.problems


def _quoted(text: str) -> str:
    """A double-quoted YAML scalar: JSON's, which is one."""
    return json.dumps(text, ensure_ascii=False)


def _plain(text: str) -> str:
    """One line of a comment, whatever was in the text."""
    return re.sub(r"[\x00-\x1f\x7f\x85\u2028\u2029\ud800-\udfff]+", " ", text).strip()
