"""The one list of the actions that come with Relight. Nothing is performed here."""

from schemas.components import Command
from service.ports import Action
from service.steps.backups import BackUp, RestoreTest, VerifyBackup
from service.steps.checks import RunCheck
from service.steps.critical import Quiet
from service.steps.disconnecting import Disconnect
from service.steps.draining import Drain
from service.steps.grounds import CheckIdentity
from service.steps.notice import Tell as TellPeople
from service.steps.observing import ConfirmRunning, ConfirmStopped, Observe
from service.steps.participants import Flush, Tell
from service.steps.pruning import Prune
from service.steps.releasing import Release
from service.steps.renewing import Renew
from service.steps.reporting import Report
from service.steps.snapshots import Compare, Seal, Verify
from service.steps.soaking import Soak
from service.steps.starting import Start
from service.steps.stopping import Stop


def build() -> dict[str, Action]:
    """Every action by its name. Actions keep nothing between two steps, so one of each is enough."""
    actions: tuple[Action, ...] = (
        TellPeople(),
        Observe(),
        CheckIdentity(),
        Tell(Command.PAUSE),
        Renew(),
        Drain(),
        Flush(),
        Tell(Command.REPORT),
        Tell(Command.RESUME),
        BackUp(),
        VerifyBackup(),
        RestoreTest(),
        Prune(),
        Disconnect(),
        Seal(),
        Verify(),
        Compare(),
        Start(),
        Stop(),
        ConfirmStopped(),
        ConfirmRunning(),
        RunCheck(),
        Quiet(),
        Soak(),
        Report(),
        Release(),
    )
    return {action.name: action for action in actions}


ACTIONS = build()
