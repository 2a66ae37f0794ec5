"""What the engine decides with: machines by version, systems by configuration hash. Read only; filled by the caller."""

from collections.abc import Mapping

from machines.chart import Chart
from machines.model import InstanceId, Machine
from schemas.system import System


class Definitions:
    """Charts by machine name and version, the current file of each system, and older ones that instances stand on."""

    def __init__(self, machines: Mapping[str, Machine], systems: Mapping[str, System]) -> None:
        self.machines = dict(machines)
        self.systems = dict(systems)
        self._charts = {(m.name, m.version): Chart(m) for m in machines.values()}
        self._hashes = {name: system.config_hash() for name, system in systems.items()}
        self._by_hash = {self._hashes[name]: system for name, system in systems.items()}

    def add_configuration(self, digest: str, system: System) -> None:
        """An older configuration that an instance still stands on."""
        self._by_hash.setdefault(digest, system)

    def add_old_machine(self, machine: Machine) -> None:
        """An older version of a machine that an instance still stands on."""
        self._charts.setdefault((machine.name, machine.version), Chart(machine))

    def current_hash(self, system: str) -> str:
        return self._hashes[system]

    def configuration(self, digest: str) -> System | None:
        return self._by_hash.get(digest)

    def machine_of(self, instance: InstanceId) -> Machine | None:
        """The newest definition of an instance's machine, by the id's first part; None when there is none."""
        return self.machines.get(instance.split("/", 1)[0])

    def chart(self, machine: str, version: int) -> Chart:
        """Raises KeyError when that version is not here; `serve` checks for this before it starts."""
        return self._charts[machine, version]

    def has(self, machine: str, version: int) -> bool:
        return (machine, version) in self._charts
