"""What Relight says over HTTP: health and metrics. Imports ports, settings and metrics; never the engine."""

from service.web.health import Health
from service.web.server import Web, listen, listen_from, url_of

__all__ = ["Health", "Web", "listen", "listen_from", "url_of"]
