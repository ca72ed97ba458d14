"""Compiled functions are kept on disk, found again while they are right, and compiled anew in every other case."""

from __future__ import annotations

import importlib
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numba
import numpy as np
import pytest
from numba.core.registry import cpu_target

from sora_ref.errors import SoRAError
from sora_ref.kernels.numba import kept
from sora_ref.kernels.numba.compiled import compiled

X = np.arange(5, dtype=np.float32)
SQUARE = np.eye(2, dtype=np.float32)


def doubled(x: Any) -> Any:
    """What is compiled here."""
    return x + x


def product(x: Any) -> Any:
    """What calls BLAS, by a function of Numba's."""
    return np.dot(x, x)


LARGE = np.ones(300_000)  # so large that Numba compiles its address, and not its numbers


def shifted(x: Any) -> Any:
    """What reads a large constant."""
    return x + LARGE[0]


def run(function: Callable[..., Any] = doubled, x: np.ndarray = X) -> Any:
    """Compile it as a new process would, and call it; its statistics."""
    made: Any = compiled(function)
    assert np.array_equal(made(x), function(x))
    return made.stats


def files(cache: Path) -> list[Path]:
    return sorted(path for path in cache.rglob("*") if path.is_file())


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("SORA_REF_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def test_a_function_is_compiled_once_for_each_type_of_its_arguments(cache: Path) -> None:
    arrays: list[np.ndarray] = [X, X.astype(np.float64), X[::2]]
    for count, x in enumerate(arrays, start=1):
        assert run(x=x).cache_misses
        assert not run(x=x).cache_misses
        assert len(files(cache)) == count
    assert not run().cache_misses
    assert {path.parent for path in files(cache)} == {kept.folder()}
    assert kept.folder().parent == cache / "kernels"


def test_another_process_finds_what_this_one_compiled(
    cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "kernel_of_a_test.py").write_text(
        "import numpy as np\n"
        "from sora_ref.kernels.numba.compiled import compiled\n"
        "@compiled\n"
        "def called(x):\n    return x * x\n"
        "@compiled(fastmath={'reassoc'})\n"
        "def total(x):\n    s = np.float32(0)\n    for i in range(x.size):\n        s += called(x[i])\n    return s\n"
        "print(total(np.arange(4, dtype=np.float32)), total.stats.cache_misses.total())\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    importlib.import_module("kernel_of_a_test")
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(sys.path))
    subprocess.run([sys.executable, "-W", "error", "-c", "import kernel_of_a_test"], check=True)
    assert capfd.readouterr() == ("14.0 1\n14.0 0\n", "")


def test_what_calls_nothing_of_numbas_is_loaded_without_its_compiler(
    cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    context, refreshed = cpu_target.target_context, list[bool]()
    functions = {doubled: False, product: True}
    for function in functions:
        run(function, SQUARE)
    monkeypatch.setattr(context, "refresh", lambda: refreshed.append(True))
    monkeypatch.setattr(kept, "address_of_symbol", lambda name: None if "gemm" in name else 1)
    for function, needed in functions.items():
        assert not run(function, SQUARE).cache_misses
        assert (len(refreshed) > 0) == needed


@pytest.mark.parametrize("damage", ["empty", "short", "long", "flipped", "folder"])
def test_a_damaged_file_is_compiled_anew_and_replaced(cache: Path, damage: str) -> None:
    run()
    (path,) = files(cache)
    whole = path.read_bytes()
    middle = len(whole) // 2
    if damage == "folder":
        path.unlink()
        path.mkdir()
    else:
        flipped = whole[:middle] + bytes([whole[middle] ^ 1]) + whole[middle + 1 :]
        path.write_bytes({"empty": b"", "short": whole[:middle], "long": whole + b"\0", "flipped": flipped}[damage])
    assert run().cache_misses
    assert bool(run().cache_misses) == (damage == "folder")  # which no file replaces


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="this system has no named pipes")
@pytest.mark.parametrize("kind", ["pipe", "device", "circle"])
def test_what_is_no_file_is_not_waited_for(cache: Path, kind: str) -> None:
    run()
    (path,) = files(cache)
    path.unlink()
    if kind == "pipe":
        os.mkfifo(path)
    else:
        path.symlink_to("/dev/zero" if kind == "device" else path)
    assert run().cache_misses
    assert not run().cache_misses


def test_the_machine_code_of_another_function_is_not_run(cache: Path) -> None:
    run()
    run(product, X)
    one, other = files(cache)
    code = one.read_bytes(), other.read_bytes()
    one.write_bytes(code[1])
    other.write_bytes(code[0])
    assert run().cache_misses
    assert run(product, X).cache_misses


def test_a_cache_that_cannot_be_written_is_no_error(
    cache: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    cache.parent.mkdir(exist_ok=True)
    cache.touch()  # a file in the folder's place
    assert run().cache_misses
    assert cache.read_bytes() == b""
    cache.unlink()

    def refuse(*args: Any) -> int:
        raise OSError(30, "Read-only file system")

    with monkeypatch.context() as patch:
        patch.setattr("sora_ref.storage.files.os.open", refuse)
        assert run().cache_misses
    assert files(cache) == []
    assert capfd.readouterr() == ("", "")


def test_a_user_without_a_home_has_no_cache_and_computes(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*args: Any) -> Path:
        raise RuntimeError("could not determine the home directory")

    monkeypatch.delenv("SORA_REF_CACHE", raising=False)
    monkeypatch.setattr("platformdirs.user_cache_path", refuse)
    assert run().cache_misses
    with pytest.raises(SoRAError, match=r"^this user has no home folder: expected SORA_REF_CACHE to name a cache fol"):
        kept.folder()


def test_the_folder_is_another_for_any_change_in_any_source(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def digest() -> str:
        kept.sources_digest.cache_clear()
        return kept.sources_digest(tmp_path)

    (tmp_path / "numba").mkdir()
    seen = [digest()]
    for name, text in [("numba/a.py", "x = 1"), ("numba/a.py", "x = 2"), ("numba/b.py", ""), ("c.py", "")]:
        (tmp_path / name).write_text(text)
        seen.append(digest())
    (tmp_path / "c.py").rename(tmp_path / "d.py")
    seen.append(digest())
    monkeypatch.setattr(numba, "__version__", "0")
    seen.append(digest())
    assert len(set(seen)) == len(seen)
    (tmp_path / "notes.txt").touch()
    assert digest() == seen[-1]


@pytest.mark.parametrize("changed", ["processor", "OPT", "BOUNDSCHECK"])
def test_another_processor_or_another_setting_of_the_compiler_finds_nothing(
    cache: Path, monkeypatch: pytest.MonkeyPatch, changed: str
) -> None:
    """Two machines may share a home; code for registers that one of them lacks would end its process."""
    run()
    assert not run().cache_misses
    if changed == "processor":
        own = cpu_target.target_context.codegen()
        monkeypatch.setattr(type(own), "magic_tuple", lambda self: ("x86_64-unknown-linux-gnu", "another", "+mmx"))
    else:
        monkeypatch.setattr(numba.config, changed, 1)
    assert run().cache_misses
    assert len(files(cache)) == 2


def test_code_that_holds_an_address_of_this_process_is_not_kept(cache: Path) -> None:
    assert run(shifted).cache_misses
    assert run(shifted).cache_misses
    assert files(cache) == []


def test_functions_that_differ_in_what_they_close_over_are_kept_apart(cache: Path) -> None:
    def times(factor: int) -> Callable[[Any], Any]:
        return lambda x: x * factor

    for factor in (2, 3):
        assert run(times(factor)).cache_misses
    assert not run(times(2)).cache_misses


def test_numbas_own_settings_are_neither_used_nor_changed(
    cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(numba.config, "CACHE_DIR", str(tmp_path / "theirs"))
    run()
    assert str(tmp_path / "theirs") == numba.config.CACHE_DIR
    assert not (tmp_path / "theirs").exists()
    assert len(files(cache)) == 1


def test_what_is_disabled_or_flushed_is_compiled_again(cache: Path) -> None:
    made: Any = compiled(doubled)
    assert made._cache.cache_path == str(kept.folder())
    made._cache.disable()
    made(X)
    assert files(cache) == []
    made._cache.enable()
    made.recompile()
    assert len(files(cache)) == 1
    made._cache.flush()
    assert files(cache) == []
