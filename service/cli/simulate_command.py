"""The options and the help of `relight simulate`; what it does stands in `simulate.py`."""

from typing import Annotated

import typer

from service.cli.options import Json


def simulate(
    seed: Annotated[int, typer.Option(metavar="N", help="The story to tell; the same number tells the same story.")],
    seeds: Annotated[int, typer.Option(metavar="K", min=1, help="Tell this many, from N on.")] = 1,
    trace: Annotated[bool, typer.Option("--trace", help="Print everything that happens, with virtual times.")] = False,
    as_json: Json = False,
) -> None:
    """Tell a story of the real engine in virtual time, through faults drawn from a seed, and judge it.

    Replicas die, freeze and are cut off, servers restart, participants are silent; after the last fault everything must
    come to rest and hold. Needs no server, touches nothing, and exits 1 when anything was found.
    """
    from service.cli.console import Screen
    from service.cli.simulate import simulate as perform

    raise typer.Exit(perform(Screen(), seed, seeds, as_json, trace=trace))
