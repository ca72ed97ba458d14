"""The suite tested: mutmut over the specification and the layers of models, and a fixed sample of mutants by hand.

    python tests/support/mutants.py run              all mutants, then docs/mutants.md; goes on where it was interrupted
    python tests/support/mutants.py run prox gate    the mutants of these modules only; writes no page
    python tests/support/mutants.py retry            the survivors only, with the tests of now; writes no page
    python tests/support/mutants.py report           the page from the results of the last full run
    python tests/support/mutants.py sample           the fixed sample of mutant_sample.toml

All of it happens in copies below build/, where the links sora_ref/models and sora_ref/backends are real folders and
Python's path begins with the mutated source, ahead of the editable installation.  Controls prove that it is this source
the tests import.  [tool.mutmut] in pyproject.toml says what is mutated and which tests run; MUTANT_WORKERS, how many
mutants are tried at a time (2).
"""

from __future__ import annotations

import hashlib
import json
import os
import platform
import resource
import shutil
import subprocess
import sys
import time
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

from mutant_page import CONTROLS, NULL, Run, faults, page, read_reasons, read_results, summary, verdict

ROOT = Path(__file__).resolve().parents[2]
SUPPORT = ROOT / "tests" / "support"
TREE = ROOT / "build" / "mutants"
STATISTICS = TREE / "mutants" / "mutmut-stats.json"  # which tests reach which function
SAMPLE_TREE = ROOT / "build" / "mutants-sample"
REASONS = SUPPORT / "mutant_survivors.toml"
SAMPLE = SUPPORT / "mutant_sample.toml"
PAGE = ROOT / "docs" / "mutants.md"
COPIED = ("sora_ref", "tests/models", "tests/support", "tests/vectors")
NOT_COPIED = shutil.ignore_patterns("__pycache__", "mutant*")
WORKERS = int(os.environ.get("MUTANT_WORKERS", "2"))
MUTMUT = "from mutmut.__main__ import cli; cli()"  # with -m it would be executed twice, and warns
INTERRUPTED = 2  # pytest's exit status
MEMORY = 8 << 30  # bytes: a mutant that appends for ever meets a MemoryError
SAMPLE_SECONDS = 60  # for one mutant


def main(words: Sequence[str]) -> int:
    """The command; the exit status is 0 where nothing is wrong."""
    match words:
        case ["run"]:
            return run()
        case ["run", *modules]:
            return run_some([f"*.{module}.*" for module in modules])
        case ["retry"]:
            return run_some(list(survivors()))
        case ["report"]:
            return report()
        case ["sample"]:
            return sample()
    print(__doc__)
    return 2


def run() -> int:
    """All mutants, from where the last run of the same sources and tests was left; then the page."""
    same = not copy_tree(TREE) and read_state()["whole"]
    if not same:
        print("these sources and tests have had no full run yet: all mutants anew")
        shutil.rmtree(TREE)
        copy_tree(TREE)
        write_state(whole=True, seconds=0.0)
    begun = time.monotonic()
    if not STATISTICS.exists():
        print("the controls first")
        mutmut(*(pattern(control.file, control.function) for control in CONTROLS))
        if missing := set(CONTROLS) - set(read_results(TREE).of("killed")):
            raise SystemExit(f"controls that did not die: {missing}")
    add_mutants_that_change_nothing()
    try:
        mutmut()
    finally:
        write_state(whole=True, seconds=read_state()["seconds"] + time.monotonic() - begun)
    return report()


def run_some(names: Sequence[str]) -> int:
    """These mutants, once more; the next full run begins anew."""
    copy_tree(TREE)
    write_state(whole=False, seconds=0.0)
    if names:  # mutmut takes none for all
        mutmut(*names)
    print(summary(read_results(TREE), read_reasons(REASONS)))
    return 0


def report() -> int:
    """Judge the results and write the page; the status is 1 where there is a fault."""
    results, reasons, state = read_results(TREE), read_reasons(REASONS), read_state()
    found = faults(results, reasons) + ([] if state["whole"] else ["the results are not those of one full run"])
    if found:
        print(summary(results, reasons), "\n".join(found), sep="\n\n")
        return 1
    libraries = ", ".join(f"{name} {version(name)}" for name in ("mutmut", "pytest", "hypothesis", "numpy"))
    told = Run(state["date"], state["seconds"] / 60, WORKERS, f"Python {platform.python_version()}, {libraries}")
    PAGE.write_text(page(results, reasons, told), encoding="utf-8")
    print(f"{results.score:.2f} % of {len(results.mutants)} mutants killed; wrote {PAGE.relative_to(ROOT)}")
    return 0


def copy_tree(tree: Path) -> bool:
    """Make `tree` a copy of what is mutated and what tests it; whether anything in it changed.

    Files keep their time where their content is the same: mutmut goes by it.  What mutmut derived from tests is
    forgotten where they changed.
    """
    new = tree.with_name(tree.name + ".new")
    shutil.rmtree(new, ignore_errors=True)
    for folder in COPIED:
        shutil.copytree(ROOT / folder, new / folder, ignore=NOT_COPIED, copy_function=shutil.copyfile)
    for path in [ROOT / "pyproject.toml", *ROOT.glob("tests/*.py")]:
        shutil.copyfile(path, new / path.relative_to(ROOT))
    old_files, new_files = dict(content(tree)), dict(content(new))
    for name in old_files.keys() - new_files.keys():
        (tree / name).unlink()
    changed = [name for name, digest in new_files.items() if old_files.get(name) != digest]
    for name in changed:
        (tree / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(new / name, tree / name)
    shutil.rmtree(new)
    if old_files == new_files:
        return False
    shutil.rmtree(tree / "mutants" / "tests", ignore_errors=True)
    (tree / "mutants" / "mutmut-stats.json").unlink(missing_ok=True)
    return True


def content(tree: Path) -> Iterator[tuple[str, str]]:
    """Name and digest of every file that was copied into `tree`."""
    for folder in ("sora_ref", "tests"):
        for path in sorted((tree / folder).rglob("*")):
            if path.is_file() and not {"__pycache__", ".hypothesis"} & set(path.parts):
                yield path.relative_to(tree).as_posix(), hashlib.sha256(path.read_bytes()).hexdigest()
    if (tree / "pyproject.toml").exists():
        yield "pyproject.toml", hashlib.sha256((tree / "pyproject.toml").read_bytes()).hexdigest()


def mutmut(*names: str) -> None:
    """Run mutmut in the tree on the mutants not yet judged, or on all of these names; SystemExit where it fails."""
    for meta in metas():
        edit_verdicts(meta, {key: None if code == INTERRUPTED else code for key, code in verdicts_of(meta).items()})
    process = subprocess.Popen(
        [sys.executable, "-P", "-c", MUTMUT, "run", "--max-children", str(WORKERS), *names],
        cwd=TREE,
        env=environment(TREE),
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY)),
    )
    interrupted = False
    while process.poll() is None:
        try:
            process.wait()
        except KeyboardInterrupt:
            interrupted = True  # so was mutmut, which writes down what it knows and ends
    if interrupted:
        raise SystemExit("interrupted: the same command goes on from here")
    if process.returncode:
        raise SystemExit(f"mutmut ended with status {process.returncode}")


def environment(tree: Path) -> dict[str, str]:
    """The environment of the fast tests: few examples, no real weights, one thread."""
    return os.environ | {
        "HYPOTHESIS_PROFILE": "fast",
        "OPENBLAS_NUM_THREADS": "1",
        "PYTHONDONTWRITEBYTECODE": "1",  # a change within one second, of the same size, would not be seen
        "SORA_REF_CACHE": str(tree / "no-cache"),
    }


def metas() -> list[Path]:
    """mutmut's records, one for each mutated file; one torn by an interruption is thrown away, with its file."""
    found = []
    for meta in sorted((TREE / "mutants").rglob("*.py.meta")):
        try:
            json.loads(meta.read_text(encoding="utf-8"))
            found.append(meta)
        except ValueError:
            meta.unlink()
            meta.with_suffix("").unlink(missing_ok=True)
    return found


def verdicts_of(meta: Path) -> dict[str, int | None]:
    """The exit codes in one of mutmut's records, by its names of mutants."""
    codes: dict[str, int | None] = json.loads(meta.read_text(encoding="utf-8"))["exit_code_by_key"]
    return codes


def edit_verdicts(meta: Path, codes: Mapping[str, int | None]) -> None:
    """Replace these exit codes."""
    record = json.loads(meta.read_text(encoding="utf-8"))
    meta.write_text(json.dumps(record | {"exit_code_by_key": codes}, indent=4), encoding="utf-8")


def add_mutants_that_change_nothing() -> None:
    """Of some function in each file, and of so many functions that all tests run once as they run for a mutant.

    mutmut takes whatever ends pytest for a failed test, also a test it cannot find; these mutants tell.
    """
    reached = json.loads(STATISTICS.read_text(encoding="utf-8"))
    tests = {name: set(found) for name, found in reached["tests_by_mangled_function_name"].items()}
    mutated = {meta: sorted({key.partition("__mutmut_")[0] for key in verdicts_of(meta)}) for meta in metas()}
    chosen = {max(names, key=lambda name: len(tests.get(name, ()))) for names in mutated.values()}
    left = set().union(*tests.values()).difference(*(tests.get(name, ()) for name in chosen))
    while left:
        chosen.add(best := max(sorted(tests), key=lambda name: len(tests[name] & left)))
        left -= tests[best]
    for meta, names in mutated.items():
        nulls = dict.fromkeys(name + NULL for name in names if name in chosen)
        edit_verdicts(meta, nulls | verdicts_of(meta))


def survivors() -> Iterator[str]:
    """mutmut's names of the mutants that survived the last run."""
    for meta in metas():
        yield from (
            key for key, code in verdicts_of(meta).items() if verdict(code) == "survived" and not key.endswith(NULL)
        )


def pattern(file: str, function: str) -> str:
    """mutmut's names of all mutants of a function."""
    return f"{file.removesuffix('.py').replace('/', '.')}.x_{function}__mutmut_*"


def read_state() -> dict[str, Any]:
    """Whether the results are those of one full run, how long it took, and when it ended."""
    try:
        state: dict[str, Any] = json.loads((TREE / "state.json").read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {"whole": False, "seconds": 0.0, "date": ""}
    return state


def write_state(*, whole: bool, seconds: float) -> None:
    """Write down what read_state reads."""
    state = {"whole": whole, "seconds": seconds, "date": datetime.now(UTC).date().isoformat()}
    (TREE / "state.json").write_text(json.dumps(state), encoding="utf-8")


def sample() -> int:
    """The fixed sample: the tests pass on the copied tree, and fail for every mutant of mutant_sample.toml."""
    shutil.rmtree(SAMPLE_TREE, ignore_errors=True)
    copy_tree(SAMPLE_TREE)
    mutants = tomllib.loads(SAMPLE.read_text(encoding="utf-8"))["mutant"]
    tests = sorted({test for mutant in mutants for test in mutant["tests"]})
    if (status := pytest_status(tests)) != 0:
        print(f"the tests do not pass on the unmutated copy: pytest ended with status {status}")
        return 1
    alive = [mutant for mutant in mutants if not dies(mutant)]
    print(f"{len(mutants) - len(alive)} of {len(mutants)} mutants killed")
    return 1 if alive else 0


def dies(mutant: Mapping[str, Any]) -> bool:
    """Whether a test fails when `original`, which stands once in the file, is replaced by `mutant`."""
    path = SAMPLE_TREE / mutant["file"]
    source = path.read_text(encoding="utf-8")
    if source.count(mutant["original"]) != 1:
        raise SystemExit(f"{mutant['file']}: {mutant['original']!r} must stand there once")
    path.write_text(source.replace(mutant["original"], mutant["mutant"]), encoding="utf-8")
    try:
        status = pytest_status(mutant["tests"])
    finally:
        path.write_text(source, encoding="utf-8")
    told = "killed" if status == 1 else f"NOT KILLED (pytest ended with status {status})"
    print(f"{told}: {mutant['file']}: {mutant['original']} -> {mutant['mutant']}", flush=True)
    return status == 1


def pytest_status(tests: Sequence[str]) -> int:
    """The exit status of pytest on these tests of the sample's tree; 0 all passed, 1 one failed."""
    options = ["-x", "-q", "--no-header", "--tb=no", "-p", "no:cacheprovider"]
    done = subprocess.run(
        [sys.executable, "-P", "-m", "pytest", *options, *tests],
        cwd=SAMPLE_TREE,
        env=environment(SAMPLE_TREE) | {"PYTHONPATH": str(SAMPLE_TREE)},
        capture_output=True,
        timeout=SAMPLE_SECONDS,
    )
    return done.returncode


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
