"""Ports for private servers: free ones below the ephemeral range, on loopback."""

import random
import socket
from collections.abc import Iterable

LOWEST, HIGHEST = 20_000, 32_767
"""Below 32768, where Linux begins to hand out ports to outgoing connections."""

TRIES = 2_000
"""Random ports tried before giving up; with a thousand servers running, a miss is still impossible in practice."""


def is_free(port: int) -> bool:
    """Whether a server could listen on this port of 127.0.0.1 now. Another may still be faster."""
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
        # As servers do: connections that linger in TIME_WAIT do not keep a port, a listener does.
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
            probe.listen(1)
        except OSError:
            return False
    return True


def free_port(taken: Iterable[int] = ()) -> int:
    """A free port, chosen at random so that two checkouts that choose at once hardly ever agree.

    Whoever starts a server there must still expect to find it taken, and choose again.
    """
    avoided = frozenset(taken)
    for _ in range(TRIES):
        port = random.SystemRandom().randint(LOWEST, HIGHEST)
        if port not in avoided and is_free(port):
            return port
    raise OSError(f"no free port between {LOWEST} and {HIGHEST} on 127.0.0.1 after {TRIES} tries")


def answers(port: int) -> bool:
    """Whether something listens on this port of 127.0.0.1."""
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
        probe.settimeout(1.0)
        return probe.connect_ex(("127.0.0.1", port)) == 0
