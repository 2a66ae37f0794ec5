"""`relight serve`: all around the service proper: systems' files, private servers, users, the banner, the end."""

import asyncio
import os
import socket
from collections.abc import Callable, Iterable, Sequence
from contextlib import closing, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import unquote, urlsplit

from schemas.events import Right
from schemas.system import System
from service.cli.console import Screen
from service.cli.ending import Signals, Told
from service.cli.home import find, only_one, remove_endpoints, write_endpoints, write_systems
from service.cli.render import Tone
from service.errors import Unavailable
from service.settings import Http, Settings

if TYPE_CHECKING:
    from service.app_observing import Observing
    from service.embedded import Embedded, Endpoints
    from service.embedded.users import BrokerUser


def serve(settings: Settings, screen: Screen, paths: Sequence[Path], observe: str | None = None) -> int:
    """Runs until SIGTERM or SIGINT: then 0. Raises RelightError when it cannot start or a part of it has failed.

    `observe`: it only looks, so often.
    """
    from service import logs
    from service.adapters.systems import load_systems

    observing = _observing(settings, screen, observe) if observe is not None else None
    systems = load_systems(paths)
    logs.configure(settings.logs)
    signals = Signals(
        lambda: screen.note(
            "relight: ending"
            if observing is not None
            else f"relight: ending; the systems' processes go on running ({_downs(systems)})"
        ),
        lambda: screen.note("relight: already ending; a moment"),
    )
    signals.listen()
    # The private servers are started as another user, which only the standard loop can; the service has a faster one.
    with (
        only_one(settings.servers.home),
        closing(_listening(settings.http, screen)) as listening,
        asyncio.Runner() as plain,
        asyncio.Runner(loop_factory=_fast_loop()) as fast,
        suppress(Told),
    ):
        write_systems(settings.servers.home, systems.values())
        _serve(_Given(settings, screen, systems, observing, listening), signals, plain, fast)
    return 0


@dataclass(frozen=True, slots=True)
class _Given:
    """What this command was given. `observing`: it only looks; `listening`: for health and metrics."""

    settings: Settings
    screen: Screen
    systems: dict[str, System]
    observing: "Observing | None"
    listening: socket.socket

    @property
    def health(self) -> str:
        from service.web import url_of

        return url_of(self.listening)


def _observing(settings: Settings, screen: Screen, every: str) -> "Observing":
    from service.cli.observing import interval, observing
    from service.clock import SystemClock

    return observing(settings.servers.home, screen, interval(every), SystemClock().now)


def _downs(systems: Iterable[str]) -> str:
    return f"{', '.join(f'`relight down {name}`' for name in sorted(systems))} ends them"


def _fast_loop() -> Callable[[], asyncio.AbstractEventLoop] | None:
    try:
        import uvloop
    except ImportError:
        return None
    return uvloop.new_event_loop


def _serve(given: _Given, signals: Signals, plain: asyncio.Runner, fast: asyncio.Runner) -> None:
    servers, screen = given.settings.servers, given.screen
    if not servers.embedded:
        found = find(servers)
        api = servers.rabbitmq_api.get_secret_value() if servers.rabbitmq_api is not None else None
        signals.run(plain, _limits(screen, found.amqp_url, api))
        signals.run(fast, _service(given, found.postgres_url, found.amqp_url))
        return
    from service.embedded import Embedded

    screen.note(f"relight: starting the private PostgreSQL and RabbitMQ in {servers.home / 'servers'}")
    embedded = Embedded(servers.home / "servers")
    endpoints = signals.run(plain, embedded.start())
    try:
        signals.run(plain, _prepare(embedded, endpoints, given))
        signals.run(fast, _service(given, endpoints.postgres_url, endpoints.amqp_url))
    finally:
        remove_endpoints(servers.home)
        signals.finish(plain, embedded.stop())


async def _prepare(embedded: "Embedded", endpoints: "Endpoints", given: _Given) -> None:
    """The private servers' tables, users and limits, and the note for the other commands."""
    from service.adapters.postgres import migrate
    from service.embedded.users import provide_users

    home = given.settings.servers.home
    await migrate(endpoints.postgres_url)
    await provide_users(embedded.rabbit, broker_users(given.systems.values()), home / "users")
    os.environ["RELIGHT_USERS"] = str(home / "users")
    await _limits(given.screen, endpoints.amqp_url, endpoints.management_url)
    write_endpoints(home, endpoints, given.health)


async def _service(given: _Given, postgres_url: str, amqp_url: str) -> None:
    from service import app

    settings, systems, addresses = given.settings, given.systems, app.Addresses(postgres_url, amqp_url)
    if given.observing is not None:
        from service import app_observing

        ready = lambda: _observing_banner(given)  # noqa: E731  # one line, used once
        await app_observing.serve(settings, systems, addresses, given.observing, given.listening, ready=ready)
        return
    await app.serve(settings, systems, addresses, given.listening, ready=lambda: _banner(given))


async def _limits(screen: Screen, amqp_url: str, api: str | None) -> None:
    """The broker's backstop limits. Relight is safe without them, so a failure is said and nothing more."""
    from service.adapters.rabbitmq import limits_as_commands, set_limits

    vhost = unquote(urlsplit(amqp_url).path[1:]) or "/"
    if api is None:
        screen.note(f"relight: advised, on the broker: {limits_as_commands(vhost)}   (or set RELIGHT_RABBITMQ_API)")
        return
    try:
        await set_limits(api, vhost)
    except Unavailable as error:
        screen.note(f"relight: the broker's limits were not set ({error}); going on without them")


def broker_users(systems: Iterable[System]) -> "list[BrokerUser]":
    """Whom the systems' files name: in `allow:` and `gate:`, and each component that takes part over AMQP."""
    from service.embedded.users import BrokerUser

    users: dict[str, BrokerUser] = {}
    for system in systems:
        for right in Right:
            for name in system.named(right):
                users.setdefault(name, BrokerUser(name))
        for component, about in system.components.items():
            if about.participant == "amqp":
                name = f"{system.system}.{component}"
                users[name] = BrokerUser(name, (system.system, component))
        for name in _operating(system):
            user = users.get(name, BrokerUser(name))
            users[name] = replace(user, operates=user.operates | {system.system})
    return list(users.values())


def _operating(system: System) -> list[str]:
    """Who takes operations from the system's queue: its components, and whom its gate names."""
    if system.gate is None:
        return []
    parts = [f"{system.system}.{name}" for name, one in system.components.items() if one.participant == "amqp"]
    return [*parts, *system.gate.to]


def _listening(http: Http, screen: Screen) -> socket.socket:
    """Where health is asked for: the port that a person chose, or else the first free one, said when it is another.

    Taken at once and kept: what is free now may be somebody's when the servers are up.
    """
    from service.web import listen, listen_from

    if http.port_was_chosen:
        return listen(http.http_host, http.http_port)
    found = listen_from(http.http_host, http.http_port)
    port = found.getsockname()[1]
    if port != http.http_port:
        screen.note(f"relight: port {http.http_port} is taken; health is on {port} (RELIGHT_HTTP_PORT chooses one)")
    return found


def _observing_banner(given: _Given) -> None:
    screen, name = given.screen, min(given.systems)
    screen.say(f"Relight observes {', '.join(sorted(given.systems))}; it moves nothing", Tone.GOOD)
    screen.say(f"  health   {given.health}/readyz   (and /livez, /metrics)")
    screen.say(f"  ask      relight restart {name}   is refused, with a report of what would have happened")
    screen.say(f"  look     relight report lifecycle/{name}, relight status, relight history lifecycle/{name}")
    screen.say("  end      Ctrl-C")


def _banner(given: _Given) -> None:
    settings, screen, systems = given.settings, given.screen, given.systems
    home = settings.servers.home
    screen.say(f"Relight serves {', '.join(sorted(systems))}", Tone.GOOD)
    screen.say(f"  health   {given.health}/readyz   (and /livez, /metrics)")
    if settings.servers.embedded:
        screen.say(f"  broker   AMQP URLs by user: {home / 'users'}/*.url")
        name = next(iter(sorted(systems)))
        allowed = systems[name].allow.restart
        if allowed:
            screen.say(
                f'  restart  relight publish restart.requested {name} --as {allowed[0]} --data \'{{"reason": "…"}}\''
            )
        screen.say(f"           relight restart {name} --watch")
    screen.say("  look     relight status, relight watch, relight history lifecycle/…")
    screen.say(f"  end      Ctrl-C; the systems' processes go on running: {_downs(systems)}")
