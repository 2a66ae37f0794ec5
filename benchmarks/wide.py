"""The service for very many instances: every metric of every system has the same thresholds. Run as `serve` is.

A million alerts do not belong into files; engine, store and broker are the real ones, and so is the machine.
"""

from collections.abc import Mapping

from benchmarks.as_serve import run
from schemas.rules import Alert
from schemas.system import System
from service.app import Addresses, Service
from service.settings import Settings

THRESHOLDS = Alert(metric="any", warning=70, critical=90, hysteresis=5)


class Wide(System):
    """A system that has an alert for whatever is measured; its configuration's hash is that of its file."""

    def alert(self, metric: str) -> Alert | None:
        return THRESHOLDS


def _make(settings: Settings, systems: Mapping[str, System], addresses: Addresses) -> Service:
    wide = {name: Wide.model_validate_json(system.canonical()) for name, system in systems.items()}
    return Service(settings, wide, addresses, None)


if __name__ == "__main__":
    run(_make)
