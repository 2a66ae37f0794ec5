"""The port `Secrets`: references to what must not be written down, resolved at the moment of use and kept nowhere."""

import os
import re
from collections.abc import Mapping
from pathlib import Path

from schemas.base import Json
from service.errors import Permanent
from service.masking import MASKS, Masks

_VARIABLE = re.compile(r"\$\{([A-Za-z_][A-Za-z0-9_]*)\}")


class References:
    """Resolves against an environment: Relight's own, unless a test gives another. What it resolved is hidden by
    `masks`, those of this process, from then on."""

    def __init__(self, environment: Mapping[str, str] | None = None, masks: Masks = MASKS) -> None:
        self._environment = os.environ if environment is None else environment
        self._masks = masks

    def resolve(self, reference: str, folder: str) -> str:
        """The value behind `env:NAME` or `file:path`; any other text is itself.

        A path may hold `${NAME}` and is relative to `folder`; one line end after the value is not part of it. Raises
        Permanent, naming the reference and never the value, when something is missing.
        """
        if not reference.startswith(("env:", "file:")):
            return reference
        value = self._value(reference, folder)
        self._masks.learn(value)
        return value

    def hide(self, text: str, spare: str = "") -> str:
        """The text without any value that was resolved in this process."""
        return self._masks.hide(text, spare)

    def hide_in(self, value: Json, spare: str = "") -> Json:
        """The same for every text in a JSON value."""
        return self._masks.hide_in(value, spare)

    def _value(self, reference: str, folder: str) -> str:
        if reference.startswith("env:"):
            return self._variable(reference.removeprefix("env:"), reference)
        path = _VARIABLE.sub(lambda found: self._variable(found[1], reference), reference.removeprefix("file:"))
        try:
            value = (Path(folder) / path).read_text()
        except (OSError, UnicodeDecodeError) as error:
            why = error.strerror if isinstance(error, OSError) else "it is not UTF-8"
            raise Permanent(f"the secret {reference} cannot be read from {Path(folder) / path}: {why}") from error
        value = value.removesuffix("\n").removesuffix("\r")
        if not value:
            raise Permanent(f"the secret {reference} is empty ({Path(folder) / path})")
        return value

    def _variable(self, name: str, reference: str) -> str:
        value = self._environment.get(name)
        if not value:
            raise Permanent(f"the secret {reference} is missing: the environment variable {name} is not set")
        return value
