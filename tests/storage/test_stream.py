"""A file that is written as it comes is there whole, or not at all, and never in another's place."""

from contextlib import suppress
from pathlib import Path

import pytest

from sora_ref.errors import SoRAError
from sora_ref.storage.stream import new_text


def test_text_is_there_under_its_name_once_all_is_written(tmp_path: Path) -> None:
    path = tmp_path / "new" / "out.txt"
    with new_text(path) as write:
        write("one\n")
        assert not path.exists()
        write("zwölf\n")
    assert path.read_bytes() == "one\nzwölf\n".encode()
    assert [found.name for found in path.parent.iterdir()] == ["out.txt"]


def test_what_exists_is_refused_before_any_work(tmp_path: Path) -> None:
    path = tmp_path / "out.txt"
    path.write_text("mine")
    with pytest.raises(SoRAError, match=r"out.txt: exists already"), new_text(path):
        pytest.fail("began to write")
    assert path.read_text() == "mine"


def test_what_came_meanwhile_is_refused_and_kept(tmp_path: Path) -> None:
    path = tmp_path / "out.txt"

    def overtaken() -> None:
        with new_text(path) as write:
            write("ours")
            path.write_text("theirs")

    with pytest.raises(SoRAError, match=r"out.txt: exists already"):
        overtaken()
    assert path.read_text() == "theirs"
    assert list(tmp_path.iterdir()) == [path]


def test_a_block_that_fails_leaves_nothing(tmp_path: Path) -> None:
    def interrupted() -> None:
        with new_text(tmp_path / "out.txt") as write:
            write("half")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert list(tmp_path.iterdir()) == []


def test_a_full_disk_is_one_sentence_with_the_name_of_the_file(monkeypatch: pytest.MonkeyPatch) -> None:
    real = Path.open
    monkeypatch.setattr(Path, "open", lambda self, mode, **given: real(Path("/dev/full"), "w", **given))
    with (
        pytest.raises(SoRAError, match=r"out.jsonl: cannot be written \(No space left on device\): expected"),
        new_text(Path("out.jsonl")) as write,
    ):
        write("x" * 100_000)


@pytest.mark.parametrize("name", ["a\0b", "x" * 300])
def test_a_name_that_no_file_can_have_is_one_sentence(tmp_path: Path, name: str) -> None:
    with pytest.raises(SoRAError, match="cannot be written"), new_text(tmp_path / name):
        pytest.fail("began to write")


def test_what_a_killed_process_left_is_swept_and_what_a_living_one_writes_is_not(tmp_path: Path) -> None:
    path = tmp_path / "out.txt"
    mine = [".out.txt.notes", ".out.txt.0123ABCD", ".other.txt.0123abcd", "out.txt.0123abcd"]
    for name in (*mine, ".out.txt.0123abcd"):
        (tmp_path / name).write_text("half")
    (tmp_path / ".out.txt.89abcdef").symlink_to(".out.txt.notes")
    with new_text(path) as write:
        assert not (tmp_path / ".out.txt.0123abcd").exists()
        with suppress(SoRAError), new_text(path) as other:  # another writer, overtaken
            other("theirs")
            write("ours")
            path.touch()
        path.unlink()
        write(", whole")
    assert path.read_text() == "ours, whole"
    assert sorted(found.name for found in tmp_path.iterdir()) == sorted([*mine, ".out.txt.89abcdef", "out.txt"])
