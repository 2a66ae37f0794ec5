"""What can go wrong, by what to do about it. Nothing else lives here."""


class ClientError(Exception):
    """Base of this package's errors."""


class Away(ClientError):
    """The broker does not answer, or Relight has not been there yet. What was asked may be right: try again."""


class Forbidden(ClientError):
    """The broker knows this user and does not allow that, or does not know it. Trying again does not help."""


class Refused(ClientError):
    """Raised by a participant's handler: the command was understood and is not obeyed, and why."""
