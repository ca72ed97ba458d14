"""One writer at a time in a folder, whoever dies and however."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from sora_ref.errors import SoRAError
from sora_ref.storage.lock import LOCK, only_writer

_HOLDER = """
import sys, time
from pathlib import Path
from sora_ref.storage.lock import only_writer
with only_writer(Path(sys.argv[1])):
    Path(sys.argv[1], "mine").touch()
    print("held", flush=True)
    time.sleep(60)
"""


def refused(folder: Path) -> str:
    with pytest.raises(SoRAError) as caught, only_writer(folder):
        pass
    return str(caught.value)


def test_second_process_is_refused_with_the_firsts_id_until_that_is_killed(tmp_path: Path) -> None:
    holder = subprocess.Popen([sys.executable, "-c", _HOLDER, str(tmp_path)], stdout=subprocess.PIPE, text=True)
    assert holder.stdout is not None
    assert holder.stdout.readline() == "held\n"
    expected = f"{tmp_path}: process {holder.pid} is writing there: expected one process at a time"
    assert [refused(tmp_path), refused(tmp_path)] == [expected] * 2
    holder.send_signal(signal.SIGKILL)
    holder.wait()
    holder.stdout.close()
    with only_writer(tmp_path):
        assert refused(tmp_path).split()[2] == str(os.getpid())
    with only_writer(tmp_path):
        pass


def test_other_thread_of_the_same_process_is_refused(tmp_path: Path) -> None:
    said: list[str] = []
    with only_writer(tmp_path):
        thread = threading.Thread(target=lambda: said.append(refused(tmp_path)))
        thread.start()
        thread.join()
    assert len(said) == 1


def test_program_started_while_the_lock_is_held_does_not_inherit_it(tmp_path: Path) -> None:
    with only_writer(tmp_path):
        child = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    with only_writer(tmp_path):
        pass
    child.communicate(b"\n")


def test_folders_made_for_the_lock_go_where_nothing_was_written_and_stay_otherwise(tmp_path: Path) -> None:
    with only_writer(tmp_path / "a" / "b"):
        pass
    assert list(tmp_path.iterdir()) == []
    with only_writer(tmp_path / "a" / "b"):
        (tmp_path / "a" / "b" / "mine").touch()
    assert sorted(path.name for path in (tmp_path / "a" / "b").iterdir()) == [LOCK, "mine"]
    empty = tmp_path / "empty"
    empty.mkdir()
    with only_writer(empty):
        pass
    assert empty.is_dir()


def test_folder_that_is_removed_meanwhile_does_not_hide_what_went_wrong(tmp_path: Path) -> None:
    def work() -> None:
        with only_writer(tmp_path / "new"):
            shutil.rmtree(tmp_path / "new")
            raise SoRAError("the work's own fault")

    with pytest.raises(SoRAError, match="the work's own fault"):
        work()
    with only_writer(tmp_path / "new"):
        pass


def test_shorter_process_id_leaves_nothing_of_a_longer_one(tmp_path: Path) -> None:
    (tmp_path / LOCK).write_text("9999999999999999999\n")
    with only_writer(tmp_path):
        assert (tmp_path / LOCK).read_text().strip() == str(os.getpid())


@pytest.mark.parametrize("text", ["", "no number", "٣"])
def test_lock_file_that_names_no_process_is_still_a_lock(tmp_path: Path, text: str) -> None:
    with only_writer(tmp_path):
        (tmp_path / LOCK).write_text(text)
        assert refused(tmp_path).startswith(f"{tmp_path}: another process is writing there")


def test_folder_that_cannot_be_made_is_a_sentence(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    assert "file: cannot be locked (File exists): expected a writable folder" in refused(tmp_path / "file")
    assert "expected a writable folder" in refused(tmp_path / "file" / "below")
