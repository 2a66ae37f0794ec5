"""The commands `relight dead …`, their options and their help; what they do stands in `dead.py`."""

from typing import Annotated

import typer

from service.cli.options import Json, start

dead = typer.Typer(
    help="What could not be taken in (d…) and notifications that could not be delivered (u…).", no_args_is_help=True
)

LeftoverId = Annotated[str, typer.Argument(metavar="ID", help="As `relight dead list` names it: d12, u7.")]
Why = Annotated[str, typer.Option("--reason", metavar="WHY", help="Kept with it, under your name.")]


@dead.command("list")
def dead_list(
    all_of_them: Annotated[bool, typer.Option("--all", help="Also what somebody has replayed or dropped.")] = False,
    limit: Annotated[int, typer.Option(min=1, max=100_000, help="At most so many of each kind.")] = 100,
    as_json: Json = False,
) -> None:
    """What nobody has settled yet, newest first, with the reasons."""
    from service.cli.dead import listed

    settings, screen = start()
    raise typer.Exit(listed(settings, screen, all_of_them, limit, as_json))


@dead.command("show")
def dead_show(name: LeftoverId, as_json: Json = False) -> None:
    """One of them with its body, and whether it would be taken in today."""
    from service.cli.dead import show

    settings, screen = start()
    raise typer.Exit(show(settings, screen, name, as_json))


@dead.command("replay")
def dead_replay(
    name: LeftoverId,
    reason: Why = "replayed by hand",
    user: Annotated[
        str | None,
        typer.Option("--as", metavar="USER", help="Publish it over AMQP as this user, instead of acting as you."),
    ] = None,
    as_json: Json = False,
) -> None:
    """Put an event through the door again (with a new id), or send a notification again (with its own).

    Exits 1 with the reason when it would be, or was, refused again.
    """
    from service.cli.dead import replay

    settings, screen = start()
    raise typer.Exit(replay(settings, screen, name, reason, user, as_json))


@dead.command("drop")
def dead_drop(
    names: Annotated[list[str], typer.Argument(metavar="ID…", help="As `relight dead list` names them.")],
    reason: Why,
) -> None:
    """Settle them without doing anything; they stay to be seen with `dead list --all` for 30 days."""
    from service.cli.dead import drop

    settings, screen = start()
    raise typer.Exit(drop(settings, screen, names, reason))
