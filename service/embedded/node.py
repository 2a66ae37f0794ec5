"""What one private RabbitMQ node is told: its ports, its environment, its settings. Data only; nothing is started."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from service.embedded import ports

MARK = "RELIGHT_EMBEDDED_RABBITMQ"
"""An environment variable by which all processes of one server are found again, its shell and helpers too."""

PLUGINS = "[rabbitmq_management,rabbitmq_stream].\n"

ERLANG = (
    # Loopback for the distribution port. PostgreSQL and Relight use the machine too: schedulers sleep, do not spin,
    # and are bound to no processor, or they would wait for theirs while another is free.
    "-kernel inet_dist_use_interface {127,0,0,1} +sbwt none +sbwtdcpu none +sbwtdio none +stbt u"
)


ELECT = """
Waiting = fun() ->
    [Name || System <- [quorum_queues, coordination],
             {Name, _} <- (try ra_directory:list_registered(System) catch _:_ -> [] end),
             is_pid(whereis(Name)),
             case ets:lookup(ra_state, Name) of
                 [Row] when element(2, Row) =:= leader -> false;
                 _ -> ra:trigger_election({Name, node()}), true
             end]
end,
Elect = fun Again(0) -> Waiting();
            Again(Left) -> case Waiting() of [] -> []; _ -> timer:sleep(100), Again(Left - 1) end
end,
Elect(300).
"""
"""Makes every quorum queue and stream of this only node elect its leader, for at most 30 s; lists those without.

A queue whose member was recovered as a new one (see `write_out`; also rabbitmq-server issue 10070) waits for ever for
a leader, and whatever is asked of it meanwhile is never answered.
"""


@dataclass(frozen=True, slots=True)
class RabbitPorts:
    """All ports of one node, on 127.0.0.1. `tools` is what rabbitmqctl itself listens on while it runs."""

    amqp: int
    management: int
    stream: int
    distribution: int
    epmd: int
    tools: int

    @classmethod
    def choose(cls, before: "RabbitPorts | None" = None) -> "RabbitPorts":
        """Those of the last time as far as they are free, others for the rest."""
        names = ("amqp", "management", "stream", "distribution", "epmd", "tools")
        chosen: dict[str, int] = {}
        for name in names:
            old = getattr(before, name) if before else 0
            chosen[name] = old if old and ports.is_free(old) else ports.free_port(chosen.values())
        return cls(**chosen)

    def all(self) -> tuple[int, ...]:
        """As numbers."""
        return (self.amqp, self.management, self.stream, self.distribution, self.epmd, self.tools)


def environment(home: Path, chosen: RabbitPorts) -> dict[str, str]:
    """For the node, its epmd and rabbitmqctl alike."""
    return {
        MARK: str(home),
        "HOME": str(home),
        "ERL_EPMD_ADDRESS": "127.0.0.1",
        "ERL_EPMD_PORT": str(chosen.epmd),
        "ERL_CRASH_DUMP_BYTES": "0",
        "RABBITMQ_NODENAME": "relight@localhost",
        "RABBITMQ_DIST_PORT": str(chosen.distribution),
        "RABBITMQ_MNESIA_BASE": str(home / "mnesia"),
        "RABBITMQ_LOG_BASE": str(home / "log"),
        "RABBITMQ_CONFIG_FILE": str(home / "rabbitmq"),
        "RABBITMQ_ADVANCED_CONFIG_FILE": str(home / "advanced"),
        "RABBITMQ_ENABLED_PLUGINS_FILE": str(home / "enabled_plugins"),
        "RABBITMQ_PID_FILE": str(home / "pid"),
        "RABBITMQ_FEATURE_FLAGS_FILE": str(home / "feature_flags"),
        "RABBITMQ_CONF_ENV_FILE": "/dev/null",
        "RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS": ERLANG,
        "RABBITMQ_CTL_ERL_ARGS": "-kernel inet_dist_use_interface {127,0,0,1}",
        "RABBITMQ_CTL_DIST_PORT_MIN": str(chosen.tools),
        "RABBITMQ_CTL_DIST_PORT_MAX": str(chosen.tools),
    }


def settings(chosen: RabbitPorts, user: str, password: str, more: Mapping[str, str]) -> dict[str, str]:
    """The lines of rabbitmq.conf; `more` wins."""
    return {
        "listeners.tcp.1": f"127.0.0.1:{chosen.amqp}",
        "management.tcp.ip": "127.0.0.1",
        "management.tcp.port": str(chosen.management),
        "stream.listeners.tcp.1": f"127.0.0.1:{chosen.stream}",
        "stream.advertised_host": "127.0.0.1",
        "stream.advertised_port": str(chosen.stream),
        # Made at the first start only; there is then no user named guest.
        "default_user": user,
        "default_pass": password,
        "default_user_tags.administrator": "true",
        "disk_free_limit.absolute": "200MB",
        "log.file.level": "info",
        "log.file.rotation.size": "10000000",
        "log.file.rotation.count": "2",
        **more,
    }
