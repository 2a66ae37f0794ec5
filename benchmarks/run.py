"""One run of the benchmark: everything once a repetition, one after another, so that a disturbance meets all."""

import shutil
from collections import defaultdict
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

from benchmarks import alone, growth, latency, limits, machine, overhead, profiling, replicas, stage, throughput
from benchmarks.child import ask
from benchmarks.errors import BenchError
from benchmarks.figures import medians, percentile, ranges, ratios, rounded
from benchmarks.ground import Ground, ground
from benchmarks.sizes import Sizes
from service.embedded.rabbitmq import USER

Say = Callable[[str], None]

BASE_BYTES, ROW_BYTES = 4_000_000_000, 2_000
"""What a run writes at most beside the log of the growth, and what a row of that log takes with its write-ahead log."""

HALF = 0.5
"""Of the full queue's rate: the point of the plot that has a row of its own."""

STORE_WITHIN = 300.0
"""Seconds for preparing some batches and committing them."""


class Run:
    """Collects a value of each figure a repetition."""

    def __init__(self, here: Ground, sizes: Sizes, say: Say) -> None:
        self._ground, self._sizes, self._say = here, sizes, say
        self.samples: dict[str, list[float]] = defaultdict(list)
        self.pools: dict[str, list[float]] = defaultdict(list)
        """Latencies of all repetitions together, in milliseconds: a percentile of few is no percentile."""
        self.single: dict[str, Any] = {}
        """What is measured once a run."""
        self._profile: str | None = None

    async def all(self) -> None:
        """Everything. Raises BenchError when something is not what it claims to be."""
        here, sizes = self._ground, self._sizes
        self._say("warming up: every instance is moved once by serve")
        self._warm, self._files = await stage.warm(here, sizes)
        self._naive, self._loaded = [
            await stage.copy(here, self._warm, name, self._files) for name in ("naive", "loaded")
        ]
        self._pgbench, self._batched, self._store = [
            await stage.copy(here, self._warm, name) for name in ("pgbench", "batched", "store")
        ]
        self._two = await replicas.prepare(here, self._files, sizes)
        self._grown = [
            (name, *await growth.prepare(here, name, count, rows, self._say))
            for name, count, rows in (
                ("growth_small", sizes.growth_small, 10 * sizes.growth_small),
                ("growth_large", sizes.growth_large, sizes.growth_log_rows),
            )
        ]
        for number in range(sizes.repetitions):
            await self._repetition(f"{number + 1}/{sizes.repetitions}")
        self._say("restarts with empty steps")
        empty = await overhead.measure(here, sizes.restarts)
        self.samples["restart_overhead_ms"] = [1000 * one for one in empty.seconds]
        self.single["restart_steps"] = empty.steps

    async def profile(self) -> None:
        """Where the time goes; after everything else, because looking costs something."""
        self._say("a profile of Python, PostgreSQL and RabbitMQ")
        self._profile = await profiling.profile(self._ground, self._warm, self._files, self._sizes.transitions)

    async def _repetition(self, which: str) -> None:
        sizes, add = self._sizes, self._add
        self._say(f"{which}: serve, from a full queue, absorbed, and with a live producer")
        ours = await throughput.measure(self._ground, self._warm, self._files, sizes)
        add("transitions_full_queue", ours.full_queue)
        add("transitions_live", ours.live)
        add("absorbed", ours.absorbed)
        add("resident_mb", ours.resident_mb)
        for part, seconds in asdict(ours.cpu).items():
            add(f"cpu_{part}_per_1000", 1000 * seconds / ours.events)
        self._say(f"{which}: pgbench, one event a transaction")
        add("pgbench_per_event", await limits.per_event(self._pgbench, sizes.per_event_seconds))
        self._say(f"{which}: the naive way, serially and 16 at once")
        add("naive_serial", await alone.measure(self._naive, self._files, sizes.naive_serial, 1))
        add("naive_16", await alone.measure(self._naive, self._files, sizes.naive_concurrent, 16))
        self._say(f"{which}: the store alone, and pgbench with the same batches")
        await self._stores()
        self._say(f"{which}: throughput and latency against load")
        await self._latencies(ours.full_queue)
        self._say(f"{which}: two replicas with two shards")
        add("two_replicas_live", await replicas.measure(self._two, self._files, sizes))
        self._say(f"{which}: few instances and many, with checkpoints")
        for name, track, files in self._grown:
            add(name, await growth.measure(track, files, sizes))

    async def _stores(self) -> None:
        wave = self._store.wave(self._sizes.batches * 200)
        found = await ask(
            "store",
            {
                "wave": wave.as_json(), "systems": str(self._files), "user": USER,
                "store_url": self._store.place.postgres_url, "pgbench_url": self._batched.place.postgres_url,
            },
            STORE_WITHIN,
        )  # fmt: skip
        self._add("store_commit", found["events"] / found["seconds"])
        self._add("pgbench_batched", await limits.batched(self._batched, found["batches"], found["size"]))

    async def _latencies(self, top: float) -> None:
        seconds = self._sizes.latency_seconds
        async with latency.served(self._loaded, self._files):
            self._add_latency("idle", await latency.at(self._loaded, latency.IDLE_RATE, seconds))
            for load in self._sizes.loads:
                found = await latency.at(self._loaded, top * load, seconds)
                self._add_latency(f"load_{load}", found)
                self._add(f"load_{load}_offered", found.offered)
                self._add(f"load_{load}_reached", found.reached)
        naive = await latency.of_naive(self._naive, self._files, latency.IDLE_RATE, seconds)
        self._add_latency("naive_idle", naive)

    def _add_latency(self, name: str, found: latency.Latency) -> None:
        self._add(f"{name}_p50_ms", found.p50)
        self.pools[name].extend(found.latencies)

    def _add(self, name: str, value: float) -> None:
        self.samples[name].append(value)

    def result(self, about: dict[str, Any]) -> dict[str, Any]:
        """`figures`, `ratios`, `machine`: what `--json` prints."""
        figures: dict[str, Any] = medians(self.samples)
        figures |= {f"{name}_p99_ms": percentile(values, 0.99) for name, values in self.pools.items()}
        figures["curve"] = [
            {what: figures.pop(f"load_{load}_{what}") for what in ("offered", "reached", "p50_ms", "p99_ms")}
            for load in self._sizes.loads
        ]
        figures |= {f"half_{what}": value for what, value in figures["curve"][self._sizes.loads.index(HALF)].items()}
        figures["restart_overhead_ms_per_step"] = figures["restart_overhead_ms"] / max(1, self.single["restart_steps"])
        figures |= self.single
        sizes, quotients = self._sizes, ratios(self.samples)
        figures |= {
            "size": sizes.label,
            "repetitions": sizes.repetitions,
            "instances": sizes.instances,
            "growth_small_instances": sizes.growth_small,
            "growth_large_instances": sizes.growth_large,
            "growth_large_log_rows": sizes.growth_log_rows,
            "ranges": ranges(self.samples | quotients),
        }
        found = {"figures": rounded(figures), "ratios": rounded(medians(quotients)), "machine": about}
        return found if self._profile is None else {**found, "profile": self._profile}


def _room(folder: Path, sizes: Sizes) -> None:
    """Raises BenchError when the disk would run full: that is not what is measured."""
    there = next(parent for parent in (folder, *folder.parents) if parent.exists())
    needed, free = BASE_BYTES + sizes.growth_log_rows * ROW_BYTES, shutil.disk_usage(there).free
    if free < needed:
        raise BenchError(
            f"this run writes up to {needed / 1e9:.0f} GB below {folder}, and only {free / 1e9:.0f} GB are free there; "
            "nothing was measured. Set RELIGHT_HOME to a folder on a larger disk"
        )


async def bench(folder: Path, sizes: Sizes, say: Say, *, profiled: bool = False) -> dict[str, Any]:
    """Starts servers of its own in `folder`, measures, and leaves nothing. Raises BenchError and EmbeddedError.

    `profiled`: the result has a fourth part, `profile`, in Markdown.
    """
    _room(folder, sizes)
    say(f"starting a private PostgreSQL and RabbitMQ in {folder}")
    async with ground(folder) as here:
        about = await machine.describe(here)
        run = Run(here, sizes, say)
        await run.all()
        if profiled:
            await run.profile()
        return run.result(about)
