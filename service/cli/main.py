"""The commands, their options and their help. What they do stands in the modules that each imports when it is called.

Exit status: 0 done, 1 failed or refused, 2 wrong usage.
"""

import os
import sys
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from service.cli.adopt_command import adopt
from service.cli.bench_command import bench
from service.cli.dead_commands import dead
from service.cli.options import Json, SystemName, Systems, start
from service.cli.simulate_command import simulate
from service.errors import RelightError

app = typer.Typer(
    name="relight",
    help="Takes running systems down, keeps them healthy, and brings them back.",
    epilog="Exit status: 0 done, 1 failed or refused, 2 wrong usage. Settings: environment variables RELIGHT_….",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
)


class Act(StrEnum):
    """What a person may do; the events' own list, without loading them."""

    RETRY = "retry"
    WAIVE = "waive"
    ABORT = "abort"
    ADOPT = "adopt"
    HANDS_OFF = "hands-off"


class Procedure(StrEnum):
    """What can be planned."""

    RESTART = "restart"


def run() -> int:
    """Runs the command line; the exit status."""
    try:
        app(prog_name="relight")
    except SystemExit as end:
        return end.code if isinstance(end.code, int) else 1
    except BrokenPipeError:
        # Whoever read our output has gone (`relight watch | head`); nothing is left to say, not even at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except (RelightError, ExceptionGroup) as error:
        from service.cli.problems import problems

        return problems(error)
    return 0


@app.command()
def demo() -> None:
    """Start everything privately, restart a real system over AMQP, prove what it kept, leave nothing running."""
    from service.cli.demo import demo as perform

    settings, screen = start()
    raise typer.Exit(perform(settings, screen))


@app.command()
def serve(
    systems: Systems,
    observe: Annotated[
        bool, typer.Option("--observe", help="Only look, and report what a restart would meet. Read rights are enough.")
    ] = False,
    every: Annotated[str, typer.Option(metavar="SPAN", help="With --observe: between two looks.")] = "1m",
) -> None:
    """Run Relight for these systems until it is ended (Ctrl-C or SIGTERM).

    Without RELIGHT_POSTGRES_URL and RELIGHT_AMQP_URL it starts its own private PostgreSQL and RabbitMQ; data stays.
    The systems' processes go on running when Relight ends, and are adopted at the next start.
    With --observe nothing is started, stopped, told or written; a request for a restart is refused with a report of
    what each step would have met (`relight report lifecycle/SYSTEM`).
    """
    from service.cli.serve import serve as perform

    settings, screen = start()
    raise typer.Exit(perform(settings, screen, systems, every if observe else None))


@app.command()
def down(
    system: SystemName,
    kill: Annotated[bool, typer.Option("--kill", help="Kill what does not end at TERM within its limit.")] = False,
    as_json: Json = False,
) -> None:
    """End the processes of a system that `serve` left running, in reverse order of needs; kept ones last.

    Refuses while `serve` runs from this folder. No server is asked. Exits 1 when something still runs.
    """
    from service.cli.down import down as perform

    settings, screen = start()
    raise typer.Exit(perform(settings, screen, system, kill, as_json))


@app.command()
def doctor(
    systems: Annotated[
        list[Path] | None,
        typer.Option("--systems", metavar="PATH", exists=True, help="Look at these systems too."),
    ] = None,
    crash_points: Annotated[
        bool, typer.Option("--crash-points", help="List the places of RELIGHT_CRASH_AT, and nothing else.")
    ] = False,
    as_json: Json = False,
) -> None:
    """What is missing or unreachable, and how to mend it. Exits 1 on any problem; changes nothing that stays.

    Without --systems it looks at the systems that the last `serve` of this folder had.
    """
    from service.cli.console import Screen
    from service.cli.doctor import crash_points as list_them
    from service.cli.doctor import doctor as perform

    screen = Screen()  # wrong settings are findings here, no end
    raise typer.Exit(list_them(screen, as_json) if crash_points else perform(screen, systems or [], as_json))


@app.command()
def migrate() -> None:
    """Bring Relight's tables in RELIGHT_POSTGRES_URL up to date. `serve` with private servers does it by itself."""
    from service.cli.upkeep import migrate as perform

    settings, screen = start()
    raise typer.Exit(perform(settings, screen))


@app.command()
def restart(
    system: SystemName,
    reason: Annotated[str, typer.Option(help="Why, for the log and the people who are told.")] = "asked for by hand",
    due: Annotated[
        str | None,
        typer.Option(
            metavar="TIME", help="When the pause begins: 2026-03-01T02:00:00+01:00. Default: after the notice."
        ),
    ] = None,
    override_freeze: Annotated[
        str | None,
        typer.Option("--override-freeze", metavar="WHY", help="Why no freeze counts this time; it is logged."),
    ] = None,
    watch: Annotated[bool, typer.Option("--watch", "-w", help="Follow it to its end.")] = False,
    as_json: Json = False,
) -> None:
    """Restart a system, from this machine's command line (logged as `you (local)`).

    Exits 1 when the restart is refused (the reasons are shown), or, with --watch, when the system did not come back
    operational from it. Ctrl-C ends only the watching: the restart goes on.
    """
    from service.cli.restart import restart as perform

    settings, screen = start()
    raise typer.Exit(perform(settings, screen, system, reason, due, override_freeze, watch, as_json))


@app.command()
def publish(
    event: Annotated[str, typer.Argument(metavar="TYPE", help="Type of the event, e.g. restart.requested.")],
    system: SystemName,
    data: Annotated[str, typer.Option(metavar="JSON", help='The event\'s data: \'{"reason": "new release"}\'.')] = "{}",
    url: Annotated[
        str | None,
        typer.Option(metavar="AMQP_URL", envvar="RELIGHT_PUBLISH_URL", help="The broker, with your own user."),
    ] = None,
    user: Annotated[
        str | None,
        typer.Option("--as", metavar="USER", help="One of the users that `serve` made on its private broker."),
    ] = None,
    event_id: Annotated[str | None, typer.Option("--id", help="The event's id. Default: a new one.")] = None,
    as_json: Json = False,
) -> None:
    """Publish an event over AMQP, as another service would: the broker verifies who you are, `allow:` decides.

    Exits 0 when the broker has confirmed it. What Relight makes of it is said on the status topic (`relight watch`).
    """
    from service.cli.publish import publish as perform

    settings, screen = start()
    raise typer.Exit(perform(settings, screen, event, system, data, url, user, event_id, as_json))


@app.command()
def watch(
    binding: Annotated[
        str, typer.Argument(metavar="BINDING", help="Topic binding: `metrics.#`, `*.lifecycle.operational`.")
    ] = "#",
    as_json: Json = False,
) -> None:
    """Show notifications of the status topic as they come, until Ctrl-C. With --json one CloudEvent a line."""
    from service.cli.look import watch as perform

    settings, screen = start()
    raise typer.Exit(perform(settings, screen, binding, as_json))


@app.command()
def status(
    system: Annotated[str | None, typer.Argument(metavar="[SYSTEM]", help="Only this system.")] = None,
    as_json: Json = False,
) -> None:
    """Where everything stands: states, current steps, and for each wait for whom, until when, and what happens then."""
    from service.cli.look import status as perform

    settings, screen = start()
    raise typer.Exit(perform(settings, screen, system, as_json))


@app.command()
def act(
    instance: Annotated[str, typer.Argument(metavar="INSTANCE", help="As `status` names it: lifecycle/metrics.")],
    what: Annotated[Act, typer.Argument(metavar="ACT", help="retry, waive, abort, adopt or hands-off.")],
    reason: Annotated[str, typer.Option(metavar="WHY", help="For the log and for whoever reads the report.")],
    step: Annotated[str | None, typer.Option(metavar="NAME", help="The step that retry or waive means.")] = None,
    until: Annotated[
        str | None,
        typer.Option(metavar="WHEN", help="When a waiver is to be looked at again: 24h, 2026-03-01T02:00:00+01:00."),
    ] = None,
    as_json: Json = False,
) -> None:
    """Act on an instance that waits or is stuck, from this machine's command line (logged as `you (local)`).

    retry: a failed step anew, or a halted system once more. waive: go on without a step. abort: turn back, or leave a
    halted system as it stands. adopt: look at what is there. hands-off: stop where it stands. Which of them are
    possible now, `relight status` says. Exits 1 when the act is refused: the reasons are shown.
    """
    from schemas.events import Act as EventAct
    from service.cli.act import act as perform

    settings, screen = start()
    raise typer.Exit(perform(settings, screen, instance, EventAct(what.value), reason, step, until, as_json))


@app.command()
def approve(
    instance: Annotated[str, typer.Argument(metavar="INSTANCE", help="As `status` names it: lifecycle/metrics.")],
    reason: Annotated[str, typer.Option(metavar="WHY", help="For the log and for whoever asked.")],
    plan: Annotated[
        str | None,
        typer.Option(metavar="HASH", help="The plan that you agree to, as it was shown. Default: you are asked."),
    ] = None,
    deny: Annotated[bool, typer.Option("--deny", help="Say no.")] = False,
    as_json: Json = False,
) -> None:
    """Agree (or not) to what waits for approval, from this machine's command line: shows the plan and its hash first.

    Only those named in `allow.approve.by` may, by the name of their account here, and never who asked for it. Exits 1
    when the answer is refused: the reasons are shown.
    """
    from service.cli.approve import approve as perform

    settings, screen = start()
    raise typer.Exit(perform(settings, screen, instance, reason, plan, deny, as_json))


@app.command()
def history(
    instance: Annotated[str, typer.Argument(metavar="INSTANCE", help="lifecycle/metrics, alert/metrics/memory, …")],
    after: Annotated[int, typer.Option(metavar="SEQ", min=0, help="Only rows after this one.")] = 0,
    limit: Annotated[int, typer.Option(min=1, max=100_000, help="At most so many rows.")] = 1000,
    as_json: Json = False,
) -> None:
    """The log of an instance, oldest first: every transition and refusal, who caused it, and why.

    With --json one row a line with its exact record and the hashes of its chain.
    """
    from service.cli.look import history as perform

    settings, screen = start()
    raise typer.Exit(perform(settings, screen, instance, after, limit, as_json))


@app.command()
def report(
    instance: Annotated[str, typer.Argument(metavar="INSTANCE", help="lifecycle/metrics")],
    restart_id: Annotated[
        str | None, typer.Option("--restart", metavar="ID", help="Which restart; default: the newest.")
    ] = None,
    sign: Annotated[
        str | None,
        typer.Option(metavar="ITEM", help="Sign this item of its checklist: its number, or its first words."),
    ] = None,
    reason: Annotated[str | None, typer.Option(help="With --sign: how it was done, or where that is written.")] = None,
) -> None:
    """The page of one restart, in Markdown: checklist, timeline, downtime, evidence, deliveries, waivers, issues.

    At its end each restart writes the same page to the system's storage (`report` in `relight status --json`). With
    --sign an item of the checklist is signed instead, by name and time; whose page is asked for then shows it.
    """
    if (sign is None) != (reason is None):
        raise typer.BadParameter("--sign ITEM and --reason WHY belong together")
    settings, screen = start()
    if sign is not None and reason is not None:
        from service.cli.sign import sign as perform_sign

        raise typer.Exit(perform_sign(settings, screen, instance, restart_id, sign, reason))
    from service.cli.report import report as perform

    raise typer.Exit(perform(settings, screen, instance, restart_id))


@app.command()
def plan(
    procedure: Annotated[Procedure, typer.Argument(metavar="PROCEDURE", help="What to plan: restart.")],
    system: Annotated[str | None, typer.Argument(metavar="[SYSTEM]", help="Name of the system.")] = None,
    systems: Annotated[
        list[Path] | None,
        typer.Option("--systems", metavar="PATH", exists=True, help="Plan from these files; nothing has to run."),
    ] = None,
    as_json: Json = False,
) -> None:
    """The very steps that a run would perform, in order, with what each would do. Touches nothing."""
    from service.cli.plan import plan as perform

    settings, screen = start()
    raise typer.Exit(perform(settings, screen, procedure.value, system, systems or [], as_json))


@app.command()
def verify(as_json: Json = False) -> None:
    """Check every machine exhaustively: what can be reached, what could get stuck. Exits 1 on any violation."""
    from service.cli.machines import verify as perform

    _, screen = start()
    raise typer.Exit(perform(screen, as_json))


@app.command()
def schema(
    name: Annotated[
        str | None, typer.Argument(metavar="[NAME]", help="system, restart.requested, transition, asyncapi, …")
    ] = None,
) -> None:
    """Print a JSON Schema of what Relight reads and says, or the AsyncAPI document of all; without a NAME list them."""
    from service.cli.schema import schema as perform

    _, screen = start()
    raise typer.Exit(perform(screen, name))


@app.command()
def diagram(
    machine: Annotated[str, typer.Argument(metavar="MACHINE", help="lifecycle, alert, …")],
    svg: Annotated[bool, typer.Option("--svg", help="As a picture: SVG on standard output.")] = False,
) -> None:
    """Draw a machine from its table, as a Mermaid state diagram or as SVG."""
    from service.cli.machines import diagram as perform

    _, screen = start()
    raise typer.Exit(perform(screen, machine, svg=svg))


app.command()(bench)
app.command()(adopt)
app.command()(simulate)
app.add_typer(dead, name="dead")
