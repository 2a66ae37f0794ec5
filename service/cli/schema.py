"""`relight schema`: the JSON Schemas of all that crosses a border, and the AsyncAPI document. Needs no server."""

from service.cli.console import Screen
from service.errors import RelightError

ASYNCAPI = "asyncapi"


def schema(screen: Screen, name: str | None) -> int:
    """One document on standard output; without a name the list of them. Short names do: `restart.requested`."""
    from schemas.asyncapi import document
    from schemas.generate import documents

    known = {file.removesuffix(".json"): text for file, text in documents().items()}
    if name is None:
        rows = [(whole, whole.rpartition("/")[0].removesuffix("s") or "file") for whole in sorted(known)]
        screen.table(("NAME", "OF"), [(ASYNCAPI, "everything on the broker, AsyncAPI 3"), *rows])
        return 0
    if name == ASYNCAPI:
        text = document()
    else:
        short = name.removesuffix(".json").removeprefix("relight.")
        found = [whole for whole in known if short in (whole, whole.rpartition("/")[2])]
        if len(found) != 1:
            raise RelightError(f"there is no schema called {name!r}; `relight schema` lists them")
        text = known[found[0]]
    screen.out.out(text, end="", highlight=False)
    return 0
