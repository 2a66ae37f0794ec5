"""What Relight says over HTTP: health and metrics. Imports ports, settings and metrics; never the engine."""

from service.web.health import Health
from service.web.server import Web, free_port

__all__ = ["Health", "Web", "free_port"]
