"""Names and surroundings of a component, as every action needs them. Nothing is done to anything here."""

from collections.abc import Mapping
from pathlib import PurePosixPath

from schemas.base import Json
from schemas.components import Component
from schemas.system import System
from service.errors import Permanent
from service.ports import UNIT, StepContext


def process_name(system: System, component: str) -> str:
    """`metrics.calculator`: its process, its sessions' application_name, its user at the broker."""
    return f"{system.system}.{component}"


def running_name(system: System, component: str) -> str:
    """How the port `Processes` knows it: `metrics.calculator`, or `unit:metrics-report.service`. It is
    asked of the file that a step was planned with, so that a file which names another unit since stops nothing else."""
    unit = system.components[component].service
    return process_name(system, component) if unit is None else f"{UNIT}{unit}"


def the_component(context: StepContext) -> tuple[str, Component]:
    """The component a step is planned for. Raises Permanent when the plan names none, or one that is gone."""
    name = context.row.planned.component
    found = context.system.components.get(name or "")
    if name is None or found is None:
        raise Permanent(f"step {context.row.key.name} needs a component of {context.system.system}, not {name!r}")
    return name, found


def environment(context: StepContext, name: str) -> dict[str, str]:
    """What a component's process and its programs are given; secrets are resolved here, at use, and kept nowhere."""
    resolve, folder = context.world.secrets.resolve, context.system.folder
    given = {key: resolve(value, folder) for key, value in context.system.components[name].env.items()}
    whole = process_name(context.system, name)
    return {**given, "RELIGHT_SYSTEM": context.system.system, "RELIGHT_COMPONENT": name, "PGAPPNAME": whole}


def folder(system: System, component: Component) -> str:
    """The working folder of a component: `cwd` below the folder of the system's file."""
    return str(PurePosixPath(system.folder) / component.cwd)


def record(data: Mapping[str, Json], key: str) -> Mapping[str, Json]:
    """The object under `key`, empty when there is none."""
    value = data.get(key)
    return value if isinstance(value, dict) else {}


def restart_id(data: Mapping[str, Json]) -> str | None:
    """The id of the restart under way, None outside of one."""
    value = record(data, "restart").get("id")
    return value if isinstance(value, str) and value else None
