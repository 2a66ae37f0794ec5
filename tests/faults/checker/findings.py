"""The names of everything that can be found in a run. No rule and no reading here."""

from dataclasses import dataclass
from enum import StrEnum


class Fault(StrEnum):
    """By subject, in the order of the rules."""

    LOST_EVENT = "lost_event"
    DOUBLED_INBOX_ROW = "doubled_inbox_row"
    WRONG_OUTCOME = "wrong_outcome"
    STRANGE_EVENT = "strange_event"
    DOUBLED_LOG_ROW = "doubled_log_row"
    OUTCOME_WITHOUT_LOG_ROW = "outcome_without_log_row"
    LOG_ROW_WITHOUT_OUTCOME = "log_row_without_outcome"
    UNTOLD_DEATH = "untold_death"

    GAP_IN_SEQ = "gap_in_seq"
    BROKEN_EDGE = "broken_edge"
    BROKEN_HASH = "broken_hash"
    ALTERED_COLUMN = "altered_column"
    WRONG_FOLD = "wrong_fold"
    UNKNOWN_STATE = "unknown_state"
    UNKNOWN_EDGE = "unknown_edge"
    MOVED_UNDER_WAY = "moved_under_way"
    OLD_EPOCH = "old_epoch"

    OLD_TOKEN = "old_token"
    STOLEN_CLAIM = "stolen_claim"

    MISSING_NOTIFICATION = "missing_notification"
    INVENTED_NOTIFICATION = "invented_notification"
    ALTERED_NOTIFICATION = "altered_notification"
    SWAPPED_NOTIFICATIONS = "swapped_notifications"
    MISCOUNTED_LOSS = "miscounted_loss"
    UNSENT_NOTIFICATION = "unsent_notification"
    UNHEARD_NOTIFICATION = "unheard_notification"

    LOST_OPERATION = "lost_operation"
    INVENTED_OPERATION = "invented_operation"
    ALTERED_OPERATION = "altered_operation"
    DOUBLED_OPERATION = "doubled_operation"
    SWAPPED_OPERATIONS = "swapped_operations"

    DOUBLED_EFFECT = "doubled_effect"
    REPEATED_COMMAND = "repeated_command"
    MISSING_EFFECT = "missing_effect"
    UNPLANNED_EFFECT = "unplanned_effect"
    ABANDONED_STEP = "abandoned_step"
    OVERDUE = "overdue"
    STUCK = "stuck"

    UNVERIFIED_OPERATIONAL = "unverified_operational"
    UNVERIFIED_SHUTDOWN = "unverified_shutdown"

    UNANSWERED = "unanswered"
    INVALID_RUN = "invalid_run"
    """Not a fault of Relight's: the run proves nothing, and so it has failed."""


@dataclass(frozen=True)
class Finding:
    fault: Fault
    what: str

    def __str__(self) -> str:
        return f"{self.fault}: {self.what}"
