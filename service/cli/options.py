"""What commands share: the options they have in common, and how each begins. No command lives here."""

import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from service.cli.console import Screen
    from service.settings import Settings

Json = Annotated[bool, typer.Option("--json", help="For programs: JSON on standard output.")]
SystemName = Annotated[str, typer.Argument(metavar="SYSTEM", help="Name of the system, as in its file.")]
Systems = Annotated[
    list[Path],
    typer.Option(
        "--systems",
        metavar="PATH",
        exists=True,
        help="A system's file, or a folder with system.yaml or several *.yaml. May be given more than once.",
    ),
]


def start() -> "tuple[Settings, Screen]":
    """What every command begins with: the settings, the screen, and a warning about misspelt variables."""
    from service.cli.console import Screen
    from service.settings import Settings, strangers

    screen = Screen()
    for line in strangers(os.environ):
        screen.note(f"relight: {line}")
    return Settings.load(), screen
