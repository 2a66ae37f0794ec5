"""The lifecycle: operational only after a passed verification, shut down only with a verified snapshot. Rules only."""

import json
from collections import defaultdict
from collections.abc import Iterator, Sequence

from tests.faults.checker.findings import Fault, Finding
from tests.faults.evidence import Evidence, StepRow, by_instance


def lifecycle_shows_what_it_claims(evidence: Evidence) -> Iterator[Finding]:
    steps: dict[tuple[str, int], list[StepRow]] = defaultdict(list)
    for step in evidence.steps:
        steps[step.instance, step.entry].append(step)
    for instance, rows in by_instance(evidence.log).items():
        if not instance.startswith("lifecycle/"):
            continue
        entries: dict[str, int] = {}
        halted_in = ""
        for row in (row for row in rows if row.kind == "transition"):
            where = f"{instance} seq {row.seq}"
            if row.state_to == "halted" != row.state_from:
                halted_in = row.state_from
            if row.state_to == "operational" and row.state_from != "operational":
                place = row.state_from if row.state_from.endswith("resuming") else "starting_up.verifying"
                if not _verified(steps.get((instance, entries.get(place, 0)), [])):
                    yield Finding(Fault.UNVERIFIED_OPERATIONAL, f"{where}: no passed verification in {place}")
            if row.state_to == "starting_up.initializing":
                # What was verified was what ran before.
                entries.pop("starting_up.verifying", None)
            if row.state_to == "shutting_down":
                # What was left off is gone on with: the snapshot is that with which it began.
                again = (row.state_from, halted_in) == ("halted", "shutting_down")
                place = "preparing_for_restart.preserving" if again else row.state_from
                planned = steps.get((instance, entries.get(place, 0)), [])
                if (why := _unsealed(planned, evidence)) is not None:
                    yield Finding(Fault.UNVERIFIED_SHUTDOWN, f"{where}: {why}")
            entries[row.state_to] = json.loads(row.record)["snapshot"]["entry"]


def _verified(steps: Sequence[StepRow]) -> bool:
    checks = [step for step in steps if step.action == "check.run"]
    return bool(checks) and all(s.status == "done" and s.result.get("passed") is True for s in checks)


def _unsealed(steps: Sequence[StepRow], evidence: Evidence) -> str | None:
    named = {step.name: step for step in steps}
    sealed, verified = named.get("seal"), named.get("verify_snapshot")
    if sealed is None or sealed.status != "done" or verified is None or verified.status != "done":
        return "no system snapshot was sealed and verified"
    digest, url = sealed.result.get("sha256"), str(sealed.result.get("url"))
    if verified.result.get("verified") is not True or verified.result.get("sha256") != digest:
        return "the system snapshot that was read back is not the one that was sealed"
    # Nothing explains a missing one: only backups are pruned, system snapshots stay for ever.
    if url not in evidence.documents and url.startswith(evidence.searched):
        return f"{url} was sealed and is not there"
    if evidence.documents.get(url, digest) != digest:
        return f"{url} is not what was sealed"
    return None
