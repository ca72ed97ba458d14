"""The console script as the system starts it: closed streams, odd encodings, Ctrl-C at any time, no extras."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from sampling import sample
from tiny_run import make_keys, run_once

ROOT = Path(__file__).resolve().parent.parent.parent
START = "import sys; sys.path.insert(0, {root!r}); {first}; sys.argv = ['sora-ref', *sys.argv[1:]]; "
START += "from _sora_ref_cli import main; main()"


def command(*arguments: str | bytes, first: str = "pass") -> list[str | bytes]:
    """The console script's own first lines, after one of the test's."""
    return [sys.executable, "-c", START.format(root=str(ROOT), first=first), *arguments]


def start(
    *arguments: str | bytes, first: str = "pass", cwd: Path | None = None, **environment: str
) -> subprocess.CompletedProcess[bytes]:
    return subprocess.run(
        command(*arguments, first=first),
        capture_output=True,
        env={**os.environ, "PYTHONPATH": str(ROOT), **environment},
        check=False,
        timeout=60,
        cwd=cwd,
    )


def shell(line: str, *arguments: str | Path) -> subprocess.CompletedProcess[bytes]:
    """A line of bash in which "$@" is the console script with its arguments."""
    whole = ["bash", "-c", line, "bash", *command(*map(str, arguments))]
    return subprocess.run(
        whole, capture_output=True, check=False, timeout=60, env={**os.environ, "PYTHONPATH": str(ROOT)}
    )


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("console")
    run_once(folder / "run", make_keys(folder) | {"train.epochs": 1})
    return folder / "run"


# Without the extras.

EXTRAS = (
    "msgspec", "filelock", "re2", "huggingface_hub", "matplotlib", "platformdirs", "safetensors", "sklearn", "scipy",
    "threadpoolctl", "tokenizers", "tomli_w", "tqdm", "hypothesis", "pytest",
)  # fmt: skip
COMMANDS = ("check", "completion", "demo", "eval", "export", "fetch", "inspect", "merge", "predict", "prune", "train")


def test_help_of_every_command_and_completion_work_where_no_extra_is_installed() -> None:
    asked: Sequence[tuple[str, ...]] = [
        ("--help",), ("--version",), *((name, "--help") for name in COMMANDS), ("completion", "zsh"),
    ]  # fmt: skip
    code = (
        f"import sys; sys.path.insert(0, {str(ROOT)!r})\n"
        f"for name in {EXTRAS!r}: sys.modules[name] = None\n"
        f"from _sora_ref_cli import main\n"
        f"for words in {list(asked)!r}:\n"
        "    sys.argv = ['sora-ref', *words]\n"
        "    try: main()\n"
        "    except SystemExit as left: assert not left.code, (words, left.code)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, timeout=60)
    assert (done.returncode, done.stderr) == (0, "")
    for name in COMMANDS:
        assert f"Usage: sora-ref {name} " in done.stdout
    assert "--max-examples" in done.stdout
    assert "#compdef sora-ref" in done.stdout


@pytest.mark.parametrize("name", ["numpy", "click", "array_api_compat"])
def test_a_package_that_is_missing_is_one_line(name: str) -> None:
    done = start("inspect", "run", first=f"sys.modules[{name!r}] = None")
    assert (done.returncode, done.stdout) == (1, b"")
    assert done.stderr.startswith(b"sora-ref: ")
    assert done.stderr.count(b"\n") == 1
    assert name.encode() in done.stderr


@pytest.mark.parametrize("command", ["", *COMMANDS])
def test_help_loads_click_alone(command: str) -> None:
    first = "import atexit; atexit.register(lambda: print(*sorted({n.split('.')[0] for n in sys.modules} & heavy)))"
    heavy = {*EXTRAS, "numpy", "array_api_compat", "numba"}
    done = start(*filter(None, [command]), "--help", first=f"heavy = {heavy!r}; {first}")
    assert f"Usage: sora-ref {command}".encode() in done.stdout
    assert done.stdout.splitlines()[-1] == b""


@pytest.mark.parametrize("module", ["sora_ref", "sora_ref.cli.main", "_sora_ref_cli"])
def test_python_m_is_the_console_script(module: str) -> None:
    done = subprocess.run(
        [sys.executable, "-m", module, "--version"], capture_output=True, text=True, check=True, cwd=ROOT
    )
    assert done.stdout.startswith("sora-ref ")
    assert done.stderr == ""


@pytest.mark.parametrize(("shell", "word"), [("bash", "complete"), ("zsh", "#compdef sora-ref"), ("fish", "complete")])
def test_completion_prints_a_script_for_the_shell(shell: str, word: str) -> None:
    done = start("completion", shell)
    assert (done.returncode, done.stderr) == (0, b"")
    assert word in done.stdout.decode()
    assert "_SORA_REF_COMPLETE" in done.stdout.decode()


def test_a_shell_that_completes_is_answered() -> None:
    done = start(_SORA_REF_COMPLETE="bash_complete", COMP_WORDS="sora-ref tra", COMP_CWORD="1")
    assert (done.returncode, done.stdout) == (0, b"plain,train\n")


# Streams.


STREAMS = {
    '"$@" | head -c 0; exit ${PIPESTATUS[0]}': (0, 141),
    '"$@" 2>&1 | head -c 0; exit ${PIPESTATUS[0]}': (0, 141),
    '"$@" > /dev/full': (1,),
    '"$@" >&-': (1,),
    '"$@" 2>&-': (0,),
    '"$@" <&-': (0,),
    '"$@" <&- >&- 2>&-': (1,),
    '"$@" > /dev/full 2>&1': (1,),
}
PIPED, FULL, CLOSED, SILENT = (list(STREAMS)[place] for place in (0, 2, 3, 4))


@pytest.mark.parametrize("line", sample(STREAMS, PIPED, FULL, CLOSED, SILENT))
def test_a_stream_that_is_closed_or_full_is_at_most_a_sentence(run: Path, line: str) -> None:
    done, status = shell(line, "inspect", run), STREAMS[line]
    assert done.returncode in status, done.stderr
    assert done.stderr.count(b"\n") <= 1
    assert b"Traceback" not in done.stderr
    if status == (1,) and "2>" not in line:
        assert done.stderr.startswith(b"sora-ref: ")


def test_a_file_never_gets_the_number_of_a_closed_stream() -> None:
    """Where 0 and 2 are free, what is opened first has them, and whatever a library prints goes into it."""
    first = "import sora_ref.run.inspect as m; m.inspect_path = lambda *_: ({}, [str(open(sys.executable).fileno())])"
    whole = ["bash", "-c", '"$@" <&- 2>&-', "bash", *command("inspect", "x", first=first)]
    done = subprocess.run(
        whole, capture_output=True, check=True, timeout=60, env={**os.environ, "PYTHONPATH": str(ROOT)}
    )
    assert int(done.stdout) > 2


@pytest.mark.parametrize("encoding", sample(("ascii", "cp1252", "utf-8"), "cp1252"))
def test_what_an_encoding_has_no_character_for_is_escaped_as_json_escapes_it(encoding: str) -> None:
    first = (
        "import sora_ref.run.inspect as m; "
        "m.inspect_path = lambda *_: ({'ü数😀\\udcff': '\\x9b\\u202e'}, ['ü数😀\\x9b\\x1b[2J'])"
    )
    written = "utf-8" if encoding == "ascii" else encoding  # click takes ASCII for a mistake of the system
    done = start("inspect", "x", "--json", first=first, PYTHONIOENCODING=encoding)
    assert (done.returncode, done.stderr) == (0, b"")
    assert json.loads(done.stdout.decode(written)) == {"ü数😀\udcff": "\x9b\u202e"}
    text = start("inspect", "x", first=first, PYTHONIOENCODING=encoding).stdout.decode(written)
    assert text.rstrip("\r\n").isprintable()


def test_the_c_locale_prints_what_is_no_ascii(run: Path, tmp_path: Path) -> None:
    odd = Path(shutil.copytree(run, tmp_path / "ü数"))
    done = start("inspect", str(odd), LC_ALL="C", LANG="C")
    assert (done.returncode, done.stderr) == (0, b"")


def test_arguments_that_are_no_text_are_a_sentence(tmp_path: Path) -> None:
    for words in (("inspect", b"\xff\x1b[2J"), (b"\xff",), ("train", "--out", b"\xfe", "--set", b"task.path=\xff")):
        done = start(*words, cwd=tmp_path)
        assert done.returncode in (1, 2), done.stderr
        assert done.stdout == b""
        assert all(line.isprintable() for line in done.stderr.decode().splitlines())
        assert list(tmp_path.iterdir()) == []


def test_warnings_of_libraries_reach_a_user_only_where_they_are_asked_for() -> None:
    first = "import sora_ref.run.inspect as m, warnings; m.inspect_path = lambda *_: ({}, [str(warnings.warn('odd'))])"
    clean = {name: value for name, value in os.environ.items() if name != "PYTHONWARNINGS"}
    for more, told in (({}, False), ({"PYTHONWARNINGS": "default"}, True), ({"SORA_REF_DEBUG": "1"}, True)):
        done = subprocess.run(
            command("inspect", "x", first=first), capture_output=True, env={**clean, **more}, check=True, timeout=60
        )
        assert (b"odd" in done.stderr) == told


# Ctrl-C.

MOMENTS = ("numpy", "numpy.linalg", "sora_ref.linear", "click", "sora_ref.run.trained", "msgspec", "tokenizers")


@pytest.mark.parametrize("module", sample(MOMENTS, "numpy", "sora_ref.run.trained"))
def test_ctrl_c_while_a_library_is_loaded_is_one_line(module: str, run: Path) -> None:
    first = (
        "import os, signal\n"
        "def hook(event, words):\n"
        f"    if event == 'import' and words[0] == {module!r}: os.kill(os.getpid(), signal.SIGINT)\n"
        "sys.addaudithook(hook)\npass"
    )
    done = start("eval", str(run), "--quiet", first=first)
    assert (done.returncode, done.stdout, done.stderr) == (130, b"", b"sora-ref: interrupted\n")


@pytest.mark.parametrize("tenths", sample(range(10), 2, 6))
def test_ctrl_c_at_any_time_of_the_first_second_is_at_most_one_line(tenths: int, run: Path) -> None:
    """Counted from the first import of the package: what was before is Python's own start, and a few milliseconds."""
    first = "seen = lambda event, words: event == 'import' and words[0] == 'sora_ref.cli.main' and "
    first += "print('here', flush=True)"
    first += "; sys.addaudithook(seen)"
    words = command("eval", str(run), "--quiet", first=first)
    with subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as child:
        assert child.stdout is not None
        assert child.stdout.readline() == b"here\n"
        time.sleep(tenths / 10)
        child.send_signal(signal.SIGINT)
        out, err = child.communicate(timeout=60)
    assert (child.returncode, err) in ((130, b"sora-ref: interrupted\n"), (0, b""))
    assert child.returncode == 130 or out.count(b"\n") == 3


def test_ctrl_c_that_is_ignored_stays_ignored(run: Path) -> None:
    first = "import os, signal; signal.signal(signal.SIGINT, signal.SIG_IGN)"
    first += "; sys.addaudithook(lambda event, words: event == 'import' and os.kill(os.getpid(), signal.SIGINT))"
    done = start("inspect", str(run), "--json", first=first)
    assert (done.returncode, done.stderr) == (0, b"")


# The working directory.


def trap(folder: Path, names: Sequence[str]) -> Path:
    """Modules of these names that leave a mark when they run."""
    for name in names:
        (folder / f"{name}.py").write_text("open('/dev/stderr', 'w').write('TRAPPED\\n')\nraise SystemExit(99)\n")
    return folder


def test_no_module_of_the_current_folder_is_run(run: Path, tmp_path: Path) -> None:
    """As the installed script: Python puts the script's own folder on the path, not the current one."""
    names = ("re", "json", "signal", "click", "numpy", "msgspec", "tokenizers", "safetensors", "sitecustomize", "pip")
    more = ("usercustomize", "cupy", "sora_ref", "_sora_ref_cli", "matplotlib", "tqdm", "scipy", "sklearn")
    trap(tmp_path, [*names, *more])
    script = tmp_path / "bin" / "sora-ref"
    script.parent.mkdir()
    script.write_text("import sys\nfrom _sora_ref_cli import main\nsys.exit(main())\n")
    for words in (("eval", str(run), "--quiet"), ("--help",)):
        done = subprocess.run(
            [sys.executable, str(script), *words],
            capture_output=True,
            check=False,
            timeout=60,
            cwd=tmp_path,
            env={**os.environ, "PYTHONPATH": str(ROOT)},
        )
        assert (done.returncode, done.stderr) == (0, b""), words


def test_json_of_numbers_that_are_none_is_null_and_nothing_else_is() -> None:
    from sora_ref.storage.json_text import to_json

    values: dict[str, Any] = {"nan": float("nan"), "inf": float("inf"), "zero": -0.0, "list": [1.5, float("-inf")]}
    assert json.loads(to_json(values)) == {"nan": None, "inf": None, "zero": 0.0, "list": [1.5, None]}
