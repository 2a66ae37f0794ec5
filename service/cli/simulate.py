"""`relight simulate`: stories of the real engine in virtual time, from seeds, and what was found. Needs no server."""

from dataclasses import asdict

from service.cli.console import Screen
from service.cli.render import Tone


def simulate(screen: Screen, seed: int, seeds: int, as_json: bool, *, trace: bool) -> int:
    """Tells the stories of `seeds` seeds from `seed` on. 1 when anything was found in one of them."""
    from service.simulation.findings import findings
    from service.simulation.story import Story, told

    bad: list[int] = []

    def one(story: Story, found: list[str]) -> None:
        tables, plan = story.store.tables, story.plan
        if as_json:
            screen.json(
                {
                    "seed": plan.seed, "plan": asdict(plan), "struck": story.struck, "events": len(story.people.sent),
                    "log_rows": len(tables.log), "notifications": len(story.broker.log), "trace": story.trace.digest,
                    "findings": found, **({"lines": story.trace.lines} if trace else {}),
                }
            )  # fmt: skip
            return
        if trace:
            screen.out.out(story.trace.text, highlight=False)
        struck = ", ".join(f"{count} × {kind}" for kind, count in sorted(story.struck.items())) or "none"
        rested = f"at rest {story.rested - story.calm_since:.0f}s after" if story.rested else "never at rest after"
        screen.say(
            f"seed {plan.seed}: {', '.join(plan.systems)}; {plan.replicas} replicas, {plan.shards} shards; "
            f"{len(story.people.sent)} events, {len(tables.log)} log rows, {len(story.broker.log)} notifications",
        )
        screen.say(f"  faults: {struck}; {rested} the last; trace {story.trace.digest}", Tone.QUIET)
        for line in found:
            screen.say(f"  {line}", Tone.BAD)

    for number in range(seed, seed + seeds):
        story = told(number)
        found = findings(story)
        if found:
            bad.append(number)
        one(story, found)
    if not as_json:
        for number in bad:
            screen.say(f"{number} replays with: relight simulate --seed {number} --trace", Tone.BAD)
        if not bad:
            screen.say(f"nothing was found in {seeds} {'story' if seeds == 1 else 'stories'}", Tone.GOOD)
    return 1 if bad else 0
