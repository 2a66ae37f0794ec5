"""Ids that Relight makes of what arrived: they fit into AMQP's 255 bytes, whatever the alphabet, and stay distinct."""

import pytest

from service.ports import short_id


@pytest.mark.parametrize("letter", ["s", "é", "語", "🦊"])
@pytest.mark.parametrize("count", [1, 60, 110, 187, 220, 221, 600])
def test_id_made_of_any_letters_fits_into_a_message_id(letter: str, count: int) -> None:
    made = {short_id(f"{letter * count}{end}") for end in ("a", "b")}
    assert len(made) == 2
    # Suffixes are put on some of them.
    assert all(len(one.encode()) <= 230 for one in made)


def test_short_id_is_the_text_itself() -> None:
    assert short_id("1:lifecycle/metrics:7") == "1:lifecycle/metrics:7"
