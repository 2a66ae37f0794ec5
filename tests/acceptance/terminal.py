"""A person who knows only the terminal: runs Relight's commands beside a `serve`, reads what they print, and pastes the
commands that stand there. What is stuck, and what is right, is the stories' business.
"""

import asyncio
import getpass
import re
import shlex

from tests.serving import Serving

ME = f"{getpass.getuser()} (local)"
"""How Relight names whoever runs these tests."""
WHY = "I looked at it"
"""What the person writes where the text says WHY."""


async def relight(serving: Serving, *words: str, status: int | None = 0) -> str:
    """What a command said, both streams; AssertionError when its exit status was another. None: any."""
    done = await asyncio.to_thread(serving.command, *words)
    assert status is None or done.returncode == status, f"{words}: {done.stdout}{done.stderr}"
    return done.stdout + done.stderr


def offered(text: str, act: str) -> list[list[str]]:
    """The commands in the text that do `act` on an instance, or `restart` a system; as words, in order, each once."""
    what = r"restart \S+" if act == "restart" else rf"act \S+ {act}"
    found = re.findall(rf"(?<![\w./-])relight {what} [^\n;`]*?--reason \"WHY\"", text)
    return [shlex.split(command)[1:] for command in dict.fromkeys(found)]


async def paste(serving: Serving, text: str, act: str, *, why: str = WHY, step: str = "", status: int = 0) -> str:
    """Runs the command that the text prints for `act` with WHY filled in, as it stands there. With several, `step`
    says which is meant. AssertionError when the text offers none, or leaves the choice open."""
    commands = [words for words in offered(text, act) if not step or step in words]
    assert len(commands) == 1, f"the text offers {len(commands)} commands to {act} {step}:\n{text}"
    return await relight(serving, *(why if word == "WHY" else word for word in commands[0]), status=status)


async def stands(serving: Serving, *states: str, within: float = 40) -> str:
    """Waits until the lifecycle is in one of these states; which."""
    state: str | None = None

    async def there() -> bool:
        nonlocal state
        state = await serving.state()
        return state in states

    await serving.until(f"one of {states}", there, within)
    assert state is not None
    return state


async def says(serving: Serving, *words: str, within: float = 20) -> str:
    """The text of `relight status`, once it has all of these words. AssertionError with the text when it never has."""
    text = ""

    async def said() -> bool:
        nonlocal text
        text = await relight(serving, "status", serving.system)
        return all(one in text for one in words)

    try:
        await serving.until(f"status says {words}", said, within)
    except AssertionError as error:
        raise AssertionError(f"{error}\nstatus says:\n{text}") from None
    return text
