"""The options and the help of `relight bench`; what it does stands in `bench.py`."""

from typing import Annotated

import typer

from service.cli.options import Json, start


def bench(
    as_json: Json = False,
    quick: Annotated[
        bool, typer.Option("--quick", help="One repetition of five, and a shorter one: a first look.")
    ] = False,
    long: Annotated[bool, typer.Option("--long", help="With 1,000,000 instances and 10,000,000 log rows.")] = False,
    tiny: Annotated[bool, typer.Option("--tiny", hidden=True)] = False,
    write: Annotated[
        bool, typer.Option("--write", help="Put the figures into README.md, docs/performance.md and its picture.")
    ] = False,
) -> None:
    """Measure how fast Relight is here, against pgbench and against a naive service, on private servers of its own.

    Takes about a quarter of an hour on an idle machine; leaves nothing running and nothing on disk.
    Progress goes to standard error.
    """
    from service.cli.bench import bench as perform

    if quick + long + tiny > 1:
        raise typer.BadParameter("--quick and --long exclude each other")
    settings, screen = start()
    size = "quick" if quick else "long" if long else "tiny" if tiny else "normal"
    raise typer.Exit(perform(settings, screen, size, as_json, write))
