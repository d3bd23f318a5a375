"""One process at a time in a folder; a kill leaves the lock harmless."""

import errno
import subprocess
import sys
from pathlib import Path

import pytest

from limbeck.system.folder_lock import folder_lock, refuse_folder_in_use

HOLD = """
import sys, time
from pathlib import Path
from limbeck.system.folder_lock import folder_lock
with folder_lock(Path(sys.argv[1])):
    print("held", flush=True)
    time.sleep(60)
"""


def test_a_folder_is_held_by_one_process_and_a_kill_releases_it(tmp_path):
    folder = tmp_path / "run"
    command = [sys.executable, "-c", HOLD, str(folder)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as holder:
        assert holder.stdout.readline() == "held\n"
        message = rf"run is in use by process {holder.pid} on .*--out"
        with pytest.raises(ValueError, match=message), folder_lock(folder):
            pass
        with pytest.raises(ValueError, match=message):
            refuse_folder_in_use(folder)
        holder.kill()
    refuse_folder_in_use(folder)
    with folder_lock(folder):
        assert [path.name for path in folder.iterdir()] == [".lock"]


def test_the_same_process_cannot_hold_a_folder_twice(tmp_path):
    with folder_lock(tmp_path), pytest.raises(ValueError, match="is in use"), folder_lock(tmp_path):
        pass
    with folder_lock(tmp_path):
        pass


def test_checking_creates_nothing(tmp_path):
    refuse_folder_in_use(tmp_path / "new")
    assert not any(tmp_path.iterdir())


def test_the_first_process_of_torchrun_holds_a_folder_for_all(tmp_path, monkeypatch):
    with folder_lock(tmp_path):
        monkeypatch.setenv("WORLD_SIZE", "2")
        monkeypatch.setenv("RANK", "1")
        refuse_folder_in_use(tmp_path)
        with folder_lock(tmp_path):
            pass
        monkeypatch.setenv("RANK", "0")
        with pytest.raises(ValueError, match="is in use by"):
            refuse_folder_in_use(tmp_path)


def test_nobody_writes_a_folder_that_is_read_only(tmp_path, monkeypatch):
    def refuse(path, *args, **options):
        raise OSError(errno.EROFS, "Read-only file system", str(path))

    with folder_lock(tmp_path):
        pass
    monkeypatch.setattr(Path, "open", refuse)
    refuse_folder_in_use(tmp_path)
