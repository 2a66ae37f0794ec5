"""The order of an instance's log: each row once, in order, and nothing behind a gap before the gap is filled."""

import random
from datetime import UTC, datetime, timedelta

import pytest

from relight_client.status import Notification, Order, matches, whole

START = datetime(2026, 3, 1, tzinfo=UTC)


def row(seq: int, epoch: int = 1, instance: str = "lifecycle/metrics") -> Notification:
    data = {"instance": instance, "epoch": epoch, "seq": seq}
    time = START + timedelta(seconds=seq)
    return Notification("metrics.lifecycle.x", f"{epoch}:{instance}:{seq}", "transition", "metrics", time, data)


def step(ident: str) -> Notification:
    data = {"instance": "lifecycle/metrics", "epoch": 1, "entry": 4}
    return Notification("metrics.lifecycle._step", ident, "step", "metrics", START, data)


def test_repeated_rows_and_known_ids_are_dropped() -> None:
    order = Order(gapless=True)
    assert order.take(row(4)) == [row(4)]
    for known in (row(4), row(3)):
        assert order.take(known) == []
    assert order.take(step("a")) == [step("a")]
    assert order.take(step("a")) == []


def test_row_behind_a_gap_waits_for_it() -> None:
    order = Order(gapless=True)
    order.take(row(4))
    assert order.take(row(6)) == []
    assert order.take(row(7)) == []
    assert order.waiting_since() == row(4).time
    assert order.take(step("meanwhile")) == [step("meanwhile")]
    assert order.take(row(5)) == [row(5), row(6), row(7)]
    assert order.waiting_since() is None


def test_given_up_gap_is_named_and_what_waited_goes_on_in_order() -> None:
    order = Order(gapless=True)
    order.take(row(4))
    order.take(row(8))
    order.take(row(7))
    assert order.give_up() == ([row(7), row(8)], ["lifecycle/metrics: 5 to 6 of epoch 1"])
    assert order.take(row(5)) == []
    assert order.take(row(9)) == [row(9)]


def test_each_instance_has_an_order_of_its_own() -> None:
    order = Order(gapless=True)
    order.take(row(4))
    order.take(row(6))
    assert order.take(row(1, instance="alert/metrics/memory")) == [row(1, instance="alert/metrics/memory")]


def test_higher_epoch_goes_on_from_where_its_database_stood() -> None:
    order = Order(gapless=True)
    order.take(row(50))
    order.take(row(52))
    assert order.take(row(48, epoch=2)) == [row(52), row(48, epoch=2)]
    assert order.take(row(53)) == []
    assert order.take(row(49, epoch=2)) == [row(49, epoch=2)]


def test_what_a_restored_database_says_again_is_dropped_and_gaps_of_its_own_epoch_are_waited_for() -> None:
    order = Order(gapless=True)
    for seq in (48, 49, 50):
        order.take(row(seq))
    assert order.take(row(48)) == [], "its outbox still held what had been sent"
    assert order.take(row(48, epoch=2)) == [row(48, epoch=2)]
    assert order.take(row(50, epoch=2)) == []
    assert order.take(row(51)) == [], "a row of the lost past that arrives late"
    assert order.take(row(49, epoch=2)) == [row(49, epoch=2), row(50, epoch=2)]


def test_binding_of_a_part_waits_for_nothing() -> None:
    order = Order(gapless=False)
    assert [order.take(row(seq)) for seq in (4, 9, 7)] == [[row(4)], [row(9)], [row(7)]]
    assert order.take(row(9)) == []
    assert order.waiting_since() is None


@pytest.mark.parametrize("seed", range(20))
def test_whatever_the_disorder_each_row_comes_once_and_in_order(seed: int) -> None:
    chance = random.Random(seed)
    arriving = [row(seq) for seq in range(2, 60)] * 2
    chance.shuffle(arriving)
    order = Order(gapless=True)
    handed = order.take(row(1))
    for notification in arriving:
        handed += order.take(notification)
    assert handed == [row(seq) for seq in range(1, 60)]


@pytest.mark.parametrize(
    ("binding", "takes_all"),
    [("#", True), ("metrics.#", True), ("*.lifecycle.#", True), ("metrics.lifecycle.operational", False),
     ("metrics.lifecycle.*", False), ("*.*.operational", False), ("#.operational", False), ("a.b.c.#", False)],
)  # fmt: skip
def test_binding_that_takes_everything_of_an_instance_is_known(binding: str, takes_all: bool) -> None:
    assert whole(binding) is takes_all


def test_bindings_match_as_the_broker_matches() -> None:
    assert matches("metrics.#", "metrics.lifecycle.preparing_for_restart.notifying")
    assert matches("*.lifecycle.operational", "metrics.lifecycle.operational")
    assert not matches("*.lifecycle.*", "metrics.lifecycle.starting_up.verifying")
    assert matches("#.operational", "metrics.lifecycle.operational")


@pytest.mark.parametrize(
    "body", [b"", b"[]", b'{"id": "1"}', b'{"id": "1", "data": [], "time": "2026-01-01T00:00:00Z"}']
)
def test_what_is_no_notification_is_told_from_one(body: bytes) -> None:
    with pytest.raises(ValueError, match=r"notification|JSON|Expecting"):
        Notification.read("metrics.lifecycle.x", body)
