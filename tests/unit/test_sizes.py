"""What everyday runs, great runs and long runs of the tests are made of."""

from dataclasses import asdict

from tests import sizes


def test_sizes_are_those_that_were_promised_and_long_runs_are_ten_times_great_ones() -> None:
    promised = {"seeds": 5_000, "service_kills": 300, "rabbitmq_kills": 20, "postgres_kills": 40, "frozen_owners": 20}
    great, long = asdict(sizes.FAULTS), asdict(sizes.LONG)
    assert {name: great[name] for name in promised} == promised
    assert great["events"] == 25_000
    assert {name: long[name] for name in promised} == {name: 10 * count for name, count in promised.items()}
    assert (sizes.EVERYDAY.service_kills, sizes.EVERYDAY.seeds) == (60, 500)
