"""The service for very many instances: every metric of every system has the same thresholds. Run as `serve` is.

A million alerts do not belong into files; engine, store and broker are the real ones, and so is the machine.
"""

import asyncio
import sys
from pathlib import Path

import uvloop

from schemas.rules import Alert
from schemas.system import System
from service import logs
from service.adapters.systems import load_systems
from service.app import Addresses, Service
from service.settings import Settings

THRESHOLDS = Alert(metric="any", warning=70, critical=90, hysteresis=5)


class Wide(System):
    """A system that has an alert for whatever is measured; its configuration's hash is that of its file."""

    def alert(self, metric: str) -> Alert | None:
        return THRESHOLDS


def main() -> None:
    """`python -m benchmarks.wide serve --systems PATH`, with the settings of `serve`."""
    settings = Settings.load()
    logs.configure(settings.logs)
    servers = settings.servers
    if servers.postgres_url is None or servers.amqp_url is None:
        raise SystemExit("RELIGHT_POSTGRES_URL and RELIGHT_AMQP_URL must be set")
    addresses = Addresses(servers.postgres_url.get_secret_value(), servers.amqp_url.get_secret_value())
    systems = load_systems([Path(sys.argv[-1])])
    wide = {name: Wide.model_validate_json(system.canonical()) for name, system in systems.items()}
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(Service(settings, wide, addresses, None).run())


if __name__ == "__main__":
    main()
