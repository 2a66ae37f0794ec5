"""A DSN as libpq's environment: a child is told where to connect without a word of it in its arguments."""

from dataclasses import dataclass, field
from urllib.parse import parse_qsl, quote, unquote

from service.errors import Permanent

OPTIONS = {
    "host": "PGHOST", "port": "PGPORT", "dbname": "PGDATABASE", "database": "PGDATABASE", "user": "PGUSER",
    "password": "PGPASSWORD", "passfile": "PGPASSFILE", "options": "PGOPTIONS", "sslmode": "PGSSLMODE",
    "sslcert": "PGSSLCERT", "sslkey": "PGSSLKEY", "sslrootcert": "PGSSLROOTCERT", "sslcrl": "PGSSLCRL",
    "gsslib": "PGGSSLIB", "krbsrvname": "PGKRBSRVNAME", "connect_timeout": "PGCONNECT_TIMEOUT",
    "target_session_attrs": "PGTARGETSESSIONATTRS", "channel_binding": "PGCHANNELBINDING", "application_name": "",
    "ssl_min_protocol_version": "PGSSLMINPROTOCOLVERSION", "ssl_max_protocol_version": "PGSSLMAXPROTOCOLVERSION",
}  # fmt: skip
"""Parameters of a DSN and libpq's variables for them; the application's name is ours."""
SHORTEST = 4
"""Characters of a password that are looked for in a child's words; a shorter one would blot out half of them."""


@dataclass(frozen=True, slots=True)
class Access:
    """How a child connects. `repr` shows none of it."""

    environment: dict[str, str] = field(repr=False)
    secrets: tuple[str, ...] = field(repr=False)

    def hide(self, text: str) -> str:
        """The text without the password, however it is written."""
        for secret in self.secrets:
            text = text.replace(secret, "***")
        return text


def access(dsn: str) -> Access:
    """Of a `postgresql://` URL. Raises Permanent, never repeating it: it holds a password."""
    scheme, _, rest = dsn.partition("://")
    if scheme not in ("postgresql", "postgres") or not rest:
        raise Permanent("the DSN of the database is no postgresql:// URL; look at what its reference points to")
    place, _, query = rest.partition("?")
    authority, _, database = place.partition("/")
    who, _, hosts = authority.rpartition("@")
    user, _, password = who.partition(":")
    pairs = [_host_and_port(host) for host in hosts.split(",")] if hosts else []
    found = {
        "PGUSER": unquote(user),
        "PGPASSWORD": unquote(password),
        "PGDATABASE": unquote(database),
        "PGHOST": ",".join(host for host, _ in pairs),
        "PGPORT": ",".join(port for _, port in pairs) if any(port for _, port in pairs) else "",
    }
    for name, value in parse_qsl(query, keep_blank_values=True):
        if name not in OPTIONS:
            raise Permanent(f"pg_dump cannot be told the parameter {name!r} of the DSN; leave it out of the reference")
        found[OPTIONS[name]] = value
    found = {name: value for name, value in found.items() if name and value}
    secret = found.get("PGPASSWORD", "")
    words = {secret, quote(secret, safe=""), password} if len(secret) >= SHORTEST else set()
    environment = {"PGAPPNAME": "relight", "PGCONNECT_TIMEOUT": "10", **found}
    return Access(environment, tuple(sorted(words, key=len, reverse=True)))


def _host_and_port(text: str) -> tuple[str, str]:
    if text.startswith("["):  # an IPv6 address
        host, _, port = text[1:].partition("]")
        return host, port.removeprefix(":")
    host, _, port = text.partition(":")
    return unquote(host), port
