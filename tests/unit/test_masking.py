"""What this process knows to be secret is found in a text however it is written, and nothing else is taken out."""

import base64
import html
import json
import logging
from collections.abc import Callable
from io import StringIO
from pathlib import Path
from urllib.parse import quote, quote_plus

import pytest
import structlog

from service import logs
from service.adapters.secrets import References
from service.cli.console import Screen
from service.masking import MASKS, Masks
from service.settings import LogFormat, Logs
from service.visible import in_json, in_one_line, visible

PASSWORD = "Kanarie-7/fjord-4ever@north-2:2%9\"quote'é"
DSN = f"postgresql://metrics:{quote(PASSWORD, safe='')}@127.0.0.1:5432/trading?sslmode=prefer"


@pytest.fixture
def masks() -> Masks:
    made = Masks()
    References({"DSN": DSN}, made).resolve("env:DSN", "/")
    return made


@pytest.mark.parametrize(
    "written",
    [
        str,
        lambda word: quote(word, safe=""),
        lambda word: quote(word, safe="").replace("%2F", "%2f").replace("%3A", "%3a").replace("%C3%A9", "%c3%a9"),
        quote,
        quote_plus,
        json.dumps,
        lambda word: json.dumps(word, ensure_ascii=False),
        repr,
        html.escape,
        lambda word: word.encode().hex(),
        lambda word: base64.b64encode(word.encode()).decode(),
        lambda word: base64.b64encode(f"metrics:{word}".encode()).decode(),
        lambda word: base64.urlsafe_b64encode(f"a:{word}@host".encode()).decode(),
        lambda word: base64.b64encode(f"xy{word} and more".encode()).decode(),
        lambda word: f"postgresql://metrics:{word}@127.0.0.1/trading",
        lambda word: word.split("@", maxsplit=1)[0],
        lambda word: f"invalid port: {word.split('/')[1]}",
    ],
)
def test_password_of_a_dsn_is_hidden_however_it_is_written(masks: Masks, written: Callable[[str], str]) -> None:
    text = written(PASSWORD)
    hidden = masks.hide(f"before {text} after")
    assert hidden.startswith("before ")
    assert hidden.endswith(" after")
    assert "***" in hidden
    middle = len(text) // 2
    for piece in ("Kanarie", "fjord", text[middle - 5 : middle + 5]):
        assert piece not in hidden


@pytest.mark.parametrize(
    ("url", "secret"),
    [
        ("https://mcp.example.org/Zk81mQp0x7/mcp", "Zk81mQp0x7"),
        ("https://mcp.example.org/mcp?access_token=hushes", "hushes"),
        ("https://mcp.example.org/mcp?k=Zk81mQp0x7", "Zk81mQp0x7"),
        ("slack://T1JJ3T3L2/A1BRTD4JD/TIiajkdnlazkcOXrIdevi7FQ", "A1BRTD4JD"),
        ("json://127.0.0.1:80/hush-hush-token-1", "hush-hush-token-1"),
        ("amqp://calculator:Zk81mQp0x7@broker", "Zk81mQp0x7"),
        ("postgresql://u:not/encoded@all@host/db", "not/encoded@all"),
        ("host=db password='two words' dbname=x", "two words"),
        (
            "-----BEGIN KEY-----\nMIIEvQIBADANBgkqhkiG9w0BAQEFAASC\n-----END KEY-----",
            "MIIEvQIBADANBgkqhkiG9w0BAQEFAASC",
        ),
    ],
)
def test_secret_part_of_a_value_is_hidden_where_it_stands_alone(url: str, secret: str) -> None:
    masks = Masks()
    masks.learn(url)
    assert masks.hide(url) == "***"
    assert secret not in masks.hide(f"GET {url.partition('://')[2]} failed: {secret} is refused")


def test_names_of_databases_and_short_words_stay_readable(masks: Masks) -> None:
    masks.learn("no")
    text = "no table in trading on 127.0.0.1 (sslmode prefer): postgres.backup of metrics refused"
    assert masks.hide(text) == text


@pytest.mark.parametrize("url", ["postgresql://relight@db.example.org/relight", "amqp://relight@127.0.0.1:5672/"])
def test_servers_user_without_a_password_is_a_name_and_stays(url: str) -> None:
    masks = Masks()
    masks.learn(url)
    assert masks.hide("see `relight status metrics`") == "see `relight status metrics`"


def test_what_stands_in_the_systems_file_is_public_and_spoils_no_url() -> None:
    masks = Masks()
    masks.learn("metrics-1")
    result = {"url": "s3://metrics-1/daily", "values": {"metrics-1": ["metrics-1", 7, None]}}
    assert masks.hide_in(result, '{"storage":"s3://metrics-1/daily"}') == result  # type: ignore[arg-type]
    assert masks.hide_in(result) == {"url": "s3://***/daily", "values": {"***": ["***", 7, None]}}  # type: ignore[arg-type]


def test_file_that_is_written_anew_hides_its_old_value_too(tmp_path: Path) -> None:
    masks, file = Masks(), tmp_path / "token"
    references = References({}, masks)
    for value in ("first-token-1", "second-token-2"):
        file.write_text(f"{value}\n")
        assert references.resolve("file:token", str(tmp_path)) == value
    assert references.hide("first-token-1 second-token-2") == "*** ***"
    assert references.resolve("plain-text-3", "/") == "plain-text-3"
    assert references.hide("plain-text-3") == "plain-text-3"


@pytest.fixture
def known(monkeypatch: pytest.MonkeyPatch) -> str:
    """A secret that this very process knows, for the length of a test."""
    for name in ("_words", "_values", "_pattern"):
        monkeypatch.setattr(MASKS, name, getattr(MASKS, name))
    MASKS.learn(PASSWORD)
    return PASSWORD


@pytest.mark.parametrize("form", [LogFormat.JSON, LogFormat.TEXT])
def test_log_line_holds_no_secret_and_steers_no_terminal(known: str, form: LogFormat) -> None:
    stream, root = StringIO(), logging.getLogger()
    before, level = root.handlers[:], root.level
    try:
        logs.configure(Logs(log_format=form), stream)
        log = structlog.get_logger()
        log.warning("it.failed", error=f"no {known}", more={known: [known]}, by="\x1b[2J\u202egnp\nforged at=now")
        try:
            raise ValueError(f"driver says {known}")
        except ValueError:
            log.exception("it.broke")
        logging.getLogger("library").error("connect %s", quote(known, safe=""))
    finally:
        root.handlers[:], root.level = before, level
        structlog.reset_defaults()
    said = stream.getvalue()
    assert "Kanarie" not in said
    assert "fjord" not in said
    assert "Traceback" in said
    assert "\x1b[2J" not in said
    assert "\u202e" not in said
    assert not any(line.startswith("forged") for line in said.splitlines())
    if form is LogFormat.JSON:
        assert json.loads(said.splitlines()[0])["by"] == "\x1b[2J\u202egnp\nforged at=now", "the value is what it was"


def test_screen_shows_no_secret_and_obeys_nobody(known: str, capsys: pytest.CaptureFixture[str]) -> None:
    screen, hostile = Screen(), f"{known} \x1b]0;owned\x07 \x9b2J \u202ekcab \r$ "
    screen.say(hostile)
    screen.note(hostile)
    screen.problem(hostile)
    screen.page(f"# {hostile}\n")
    screen.table(("REASON",), [(f"{hostile}\nINSTANCE  forged",)])
    screen.json({"reason": hostile})
    said = "".join(capsys.readouterr())
    assert "Kanarie" not in said
    assert not {"\x1b", "\x07", "\x9b", "\u202e", "\r"} & set(said)
    assert "\\x1b]0;owned" in said, "it is shown, not swallowed"
    assert not any(line.startswith("INSTANCE  forged") for line in said.splitlines())
    assert json.loads(said[said.index("{") :].splitlines()[0])["reason"].endswith("\u202ekcab \r$ ")


def test_steering_characters_are_written_out_and_ordinary_ones_stay() -> None:
    assert visible("é → 日本 👍🏽\tx\ny") == "é → 日本 👍🏽\tx\ny"
    assert visible("\x1b[31m\x00\x9b\u2066\ud800") == "\\x1b[31m\\x00\\x9b\\u2066\\ud800"
    assert in_one_line("a\nb\r") == "a\\nb\\x0d"
    assert json.loads(in_json(json.dumps("\x9b\u202e", ensure_ascii=False))) == "\x9b\u202e"
