"""The options and the help of `relight adopt`; what it does is imported when it is called."""

from typing import Annotated

import typer

from service.cli.options import Json, SystemName, start


def adopt(
    system: SystemName,
    postgres: Annotated[
        list[str] | None,
        typer.Option("--postgres", metavar="URL", help="A PostgreSQL server: postgresql://…, or better env:NAME."),
    ] = None,
    unit: Annotated[
        list[str] | None, typer.Option("--unit", metavar="GLOB", help="Services of systemd to look at.")
    ] = None,
    process: Annotated[
        list[str] | None,
        typer.Option("--process", metavar="PID", help="Its processes: a pid, or a part of the command line."),
    ] = None,
    mcp: Annotated[list[str] | None, typer.Option("--mcp", metavar="URL", help="An MCP server, or env:NAME.")] = None,
    output: Annotated[
        str | None, typer.Option("--output", "-o", metavar="FILE", help="Default: SYSTEM.yaml; - prints it.")
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Replace the file if it exists.")] = False,
    as_json: Json = False,
) -> None:
    """Write a system's file from what runs on this machine: databases (pinned), processes, who needs whom, MCP servers.

    Changes nothing but that file, and reads it back first. Without --process and --unit it takes your processes that
    listen or are connected to what was given. Passwords are never written: it says which variables to set.
    """
    from service.cli.adopt import adopt as perform
    from service.cli.adopt_look import Wanted

    settings, screen = start()
    wanted = Wanted(system, tuple(postgres or ()), tuple(unit or ()), tuple(process or ()), tuple(mcp or ()))
    raise typer.Exit(perform(settings, screen, wanted, output, force, as_json))
