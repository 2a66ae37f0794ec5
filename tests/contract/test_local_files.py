"""Files and folders of a system: the double and the real file system keep the same promises, and leave things alone."""

import hashlib
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

from service.adapters.local_files import LocalFiles
from service.adapters.memory.world import MemoryWorld
from service.clock import SystemClock
from service.errors import Permanent
from service.ports import Files


@dataclass(frozen=True)
class Place:
    """The port, its root folder, and how to put a file there."""

    files: Files
    root: str
    put: Callable[[str, bytes], str]


@pytest.fixture(params=["memory", "real"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Place:
    if request.param == "real":

        def put(name: str, content: bytes) -> str:
            (tmp_path / name).write_bytes(content)
            return str(tmp_path / name)

        return Place(LocalFiles(), str(tmp_path), put)
    memory = MemoryWorld(SystemClock()).files
    memory.contents["/place"] = None

    def keep(name: str, content: bytes) -> str:
        memory.contents[f"/place/{name}"] = content
        return f"/place/{name}"

    return Place(memory, "/place", keep)


async def test_folder_is_tried_for_reading_and_writing(place: Place) -> None:
    for write in (False, True):
        state = await place.files.tried(place.root, write=write)
        assert state.folder
        assert state.free > 0


async def test_file_is_tried_and_its_content_stays(place: Place) -> None:
    path = place.put("settings.toml", b"rate = 1\n")
    assert not (await place.files.tried(path, write=True)).folder
    assert await place.files.sha256(path) == hashlib.sha256(b"rate = 1\n").hexdigest()


async def test_what_is_not_there_is_permanent(place: Place) -> None:
    with pytest.raises(Permanent, match="No such file"):
        await place.files.tried(f"{place.root}/nothing", write=False)
    with pytest.raises(Permanent, match="No such file"):
        await place.files.sha256(f"{place.root}/nothing")
    with pytest.raises(Permanent, match="Is a directory"):
        await place.files.sha256(place.root)


async def test_trying_to_write_leaves_nothing_behind_and_creates_nothing(tmp_path: Path) -> None:
    (tmp_path / "kept").write_bytes(b"as it was")
    before = (tmp_path / "kept").stat().st_mtime_ns
    await LocalFiles().tried(str(tmp_path), write=True)
    await LocalFiles().tried(str(tmp_path / "kept"), write=True)
    with pytest.raises(Permanent):
        await LocalFiles().tried(str(tmp_path / "new"), write=True)
    assert os.listdir(tmp_path) == ["kept"]
    assert ((tmp_path / "kept").read_bytes(), (tmp_path / "kept").stat().st_mtime_ns) == (b"as it was", before)


async def test_place_that_takes_no_files_is_found_by_trying_even_by_a_superuser() -> None:
    # Its permission bits would let root write; only trying shows that it cannot be.
    assert (await LocalFiles().tried("/proc/self", write=False)).folder
    with pytest.raises(Permanent, match=r"/proc/self: (No such file|Permission denied|Operation not permitted)"):
        await LocalFiles().tried("/proc/self", write=True)
