"""The naive way measured like Relight: a full queue, each event once, everything proven afterwards."""

from pathlib import Path

from benchmarks.child import ask
from benchmarks.counting import Tables
from benchmarks.stage import Track, prove_told, publish

WITHIN = 240.0
"""Seconds for one measurement."""


async def measure(track: Track, files: Path, events: int, width: int) -> float:
    """Events a second, `width` at once. Raises BenchError when not each was a transition with its notification."""
    place = track.place
    wave = track.wave(events)
    await publish(place, [wave])
    found = await ask("naive", job(track, files, events, width), WITHIN)
    async with Tables(place.postgres_url) as tables:
        await tables.prove(wave.source, wave.count)
    await prove_told(track, wave)
    return float(events / found["seconds"])


def job(track: Track, files: Path, events: int, width: int) -> dict[str, object]:
    """What `benchmarks.naive` is told."""
    return {
        "postgres_url": track.place.postgres_url,
        "amqp_url": track.place.amqp_url,
        "systems": str(files),
        "events": events,
        "width": width,
        "within": WITHIN - 20,
    }
