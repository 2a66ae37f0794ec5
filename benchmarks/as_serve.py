"""Runs another make of the service as `serve` is run: `python -m MODULE serve --systems PATH`, on given servers."""

import asyncio
import sys
from collections.abc import Callable, Mapping
from pathlib import Path

import uvloop

from schemas.system import System
from service import logs
from service.adapters.systems import load_systems
from service.app import Addresses, Service
from service.settings import Settings
from service.web import listen


def run(make: Callable[[Settings, Mapping[str, System], Addresses], Service]) -> None:
    """Until it is ended, with the settings of `serve`."""
    settings = Settings.load()
    logs.configure(settings.logs)
    servers = settings.servers
    if servers.postgres_url is None or servers.amqp_url is None:
        raise SystemExit("RELIGHT_POSTGRES_URL and RELIGHT_AMQP_URL must be set")
    addresses = Addresses(servers.postgres_url.get_secret_value(), servers.amqp_url.get_secret_value())
    service = make(settings, load_systems([Path(sys.argv[-1])]), addresses)
    listening = listen(settings.http.http_host, settings.http.http_port)
    with listening, asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(service.run(listening))
