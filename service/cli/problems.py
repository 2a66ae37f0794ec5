"""What a command says when it ends with an error of ours. Any other error is a defect and keeps its traceback."""

from service.cli.console import Screen
from service.errors import RelightError, leaves


def problems(error: Exception) -> int:
    """Says each Relight error of a (nested) group once; the exit status. Raises `error` if there is any other in it."""
    screen = Screen()
    found = list(leaves(error))
    if any(not isinstance(leaf, RelightError) for leaf in found):
        raise error
    for text in dict.fromkeys(map(str, found)):
        screen.problem(text)
    return 1
