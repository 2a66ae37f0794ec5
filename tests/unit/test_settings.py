"""Settings come from the environment; a wrong one names itself and never repeats a secret."""

import json
from datetime import timedelta
from io import StringIO
from pathlib import Path

import pytest
import structlog

from service import logs
from service.errors import Misconfigured
from service.settings import HEALTH_PORT, LogFormat, Logs, Settings, strangers


@pytest.fixture(autouse=True)
def _bare(monkeypatch: pytest.MonkeyPatch) -> None:
    import os

    for name in [name for name in os.environ if name.startswith("RELIGHT_")]:
        monkeypatch.delenv(name)


def test_without_any_variable_relight_runs_on_servers_of_its_own() -> None:
    settings = Settings.load()
    assert settings.servers.embedded
    assert settings.servers.home.name == ".relight"
    assert settings.engine.lease == timedelta(seconds=10)
    assert settings.http.http_port == HEALTH_PORT < 32768
    assert not settings.http.port_was_chosen


def test_values_are_read_as_people_write_them(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {
        "LEASE": "1m30s",
        "PLACES": "m1, cluster-a",
        "HTTP_PORT": "8410",
        "HOME": "/srv/relight",
    }.items():
        monkeypatch.setenv(f"RELIGHT_{name}", value)
    settings = Settings.load()
    assert settings.engine.lease == timedelta(seconds=90)
    assert settings.engine.places == ("m1", "cluster-a")
    assert settings.http.port_was_chosen
    assert settings.servers.home == Path("/srv/relight")


def test_all_wrong_variables_are_named_at_once_and_secrets_are_not_repeated(monkeypatch: pytest.MonkeyPatch) -> None:
    wrong = {
        "SHARDS": "many",
        "LEASE": "1s",
        "AMQP_URL": "http://ana:hunter2@host/",
        "LOG_FORMAT": "xml",
        "PLACES": ",",
    }
    for name, value in wrong.items():
        monkeypatch.setenv(f"RELIGHT_{name}", value)
    with pytest.raises(Misconfigured) as caught:
        Settings.load()
    assert [line.split(":")[0].removeprefix("RELIGHT_") for line in caught.value.problems] == [
        "AMQP_URL", "SHARDS", "LEASE", "PLACES", "LOG_FORMAT"
    ]  # fmt: skip
    assert "RELIGHT_LEASE: should be from 2s to 5m" in caught.value.problems
    assert "hunter2" not in str(caught.value)


def test_one_url_without_the_other_is_a_mistake(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RELIGHT_AMQP_URL", "amqp://ana:x@host/")
    with pytest.raises(Misconfigured, match="RELIGHT_POSTGRES_URL: is not set but RELIGHT_AMQP_URL is"):
        Settings.load()


def test_secrets_do_not_show_in_a_traceback(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RELIGHT_AMQP_URL", "amqp://ana:hunter2@host/")
    monkeypatch.setenv("RELIGHT_POSTGRES_URL", "postgresql://ana:hunter2@host/relight")
    assert "hunter2" not in repr(Settings.load())


def test_misspelt_variable_is_pointed_out_and_others_are_left_alone() -> None:
    environ = {"RELIGHT_POSTGRES_URI": "x", "RELIGHT_HOME": "x", "RELIGHT_POSTGRES_BIN": "x", "RELIGHT_WEATHER": "x"}
    assert strangers(environ) == (
        "RELIGHT_POSTGRES_URI is no setting of Relight and was ignored; did you mean RELIGHT_POSTGRES_URL?",
    )


def test_no_log_line_carries_a_password() -> None:
    stream = StringIO()
    logs.configure(Logs(log_format=LogFormat.JSON), stream)
    try:
        about = {"url": "amqp://ana:hunter2@h/", "more": ["postgresql://a:hunter2@h/x"]}
        structlog.get_logger().warning("away.from amqp://b:hunter2@h/", **about)
        __import__("logging").getLogger("aio_pika").warning("lost %s", "amqp://c:hunter2@h:5672//")
    finally:
        structlog.reset_defaults()
    lines = [json.loads(line) for line in stream.getvalue().splitlines()]
    assert "hunter2" not in stream.getvalue()
    assert lines[0]["url"] == "amqp://ana:***@h/"
    assert lines[0]["level"] == "warning"
    assert lines[1]["event"] == "lost amqp://c:***@h:5672//"
