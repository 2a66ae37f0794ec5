"""What the engine decides with: machines by version, systems by configuration hash. Read only; filled by the caller."""

from collections.abc import Mapping

from pydantic import ValidationError

from machines.chart import Chart
from machines.model import InstanceId, Machine, Snapshot
from schemas.system import System
from service.errors import Misconfigured


class Definitions:
    """Charts by machine name and version, the current file of each system, and older ones that instances stand on."""

    def __init__(self, machines: Mapping[str, Machine], systems: Mapping[str, System]) -> None:
        self.machines = dict(machines)
        self.systems = dict(systems)
        self._charts = {(m.name, m.version): Chart(m) for m in machines.values()}
        self._hashes = {name: system.config_hash() for name, system in systems.items()}
        self._by_hash = {self._hashes[name]: system for name, system in systems.items()}
        self._gated = {name for name, system in systems.items() if system.gate is not None}

    def add_configuration(self, digest: str, system: System) -> None:
        """An older configuration that an instance still stands on."""
        self._by_hash.setdefault(digest, system)
        if system.gate is not None:
            self._gated.add(system.system)

    def learn(self, texts: Mapping[str, str]) -> None:
        """Configurations from the table, canonical text by hash. Raises Misconfigured when one cannot be read."""
        for digest, text in texts.items():
            if self.knows(digest):
                continue
            try:
                self.add_configuration(digest, System.model_validate_json(text))
            except ValidationError as error:
                raise Misconfigured(
                    (f"an instance stands on configuration {digest}, which this version cannot read: {error}",)
                ) from error

    def lacks(self, snapshot: Snapshot) -> str | None:
        """What an instance stands on that is not here; None when all is."""
        if not self.knows(snapshot.config_hash):
            return f"{snapshot.instance} stands on configuration {snapshot.config_hash}, which is not here"
        if not self.has(snapshot.machine, snapshot.machine_version):
            return (
                f"{snapshot.instance} stands on machine {snapshot.machine} version {snapshot.machine_version}, "
                "which is not here"
            )
        return None

    def add_old_machine(self, machine: Machine) -> None:
        """An older version of a machine that an instance still stands on."""
        self._charts.setdefault((machine.name, machine.version), Chart(machine))

    def current_hash(self, system: str) -> str:
        return self._hashes[system]

    def gated(self, system: str) -> bool:
        """Whether the system has a gate, in its current file or in an older one that an instance stands on."""
        return system in self._gated

    def configuration(self, digest: str) -> System:
        """Raises KeyError when it is not here; see `lacks` and `learn`."""
        return self._by_hash[digest]

    def knows(self, digest: str) -> bool:
        return digest in self._by_hash

    def machine_of(self, instance: InstanceId) -> Machine | None:
        """The newest definition of an instance's machine, by the id's first part; None when there is none."""
        return self.machines.get(instance.split("/", 1)[0])

    def chart(self, machine: str, version: int) -> Chart:
        """Raises KeyError when that version is not here; `serve` checks for this before it starts."""
        return self._charts[machine, version]

    def has(self, machine: str, version: int) -> bool:
        return (machine, version) in self._charts
