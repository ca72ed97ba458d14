"""Which way imports point, what importing loads, and how long files are."""

from __future__ import annotations

import ast
import os
import subprocess
import sys
import tomllib
from functools import cache
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent

# The rooms by level: a room may import those below it, and none beside it.
ROOMS = {
    "backends": 0,
    "spec": 1,
    "storage": 2,
    "models": 3,
    "kernels": 4,
    "methods": 4,
    "peft": 4,
    "run": 5,
    "conformance": 5,
    "cli": 6,
}
PACKAGES_OF_THE_SPECIFICATION = {"bounds"}
# The kit checks other people's implementations: it needs neither models nor PEFT's format.
NARROWER = {"conformance": {"backends", "spec", "storage"}}
# Libraries, and the rooms or modules that alone may import them.
HOMES = {
    "click": {"sora_ref.cli"},
    "cupy": {"sora_ref.backends", "sora_ref.kernels.cuda"},
    "fcntl": {"sora_ref.storage.flock"},
    "filelock": {"sora_ref.storage"},
    "huggingface_hub": {"sora_ref.run.hub"},
    "hypothesis": {"sora_ref.conformance", "sora_ref.cli.checking"},
    "llvmlite": {"sora_ref.kernels.numba"},
    "matplotlib": {"sora_ref.run.pictures"},
    "numba": {"sora_ref.kernels.numba"},
    "safetensors": {"sora_ref.storage.tensors", "sora_ref.conformance.golden.reader"},  # of integers too
    "tokenizers": {"sora_ref.run"},
}

# Modules whose work is on the host by nature: they draw random numbers, read files, or take names apart.
ON_HOST = {f"sora_ref.{name}" for name in ("init", "models.dropout", "models.pretrained", "models.config_json")}
ON_HOST.add("sora_ref.models.architecture")
FOREIGN = [
    "cupy",
    "llvmlite",
    "numba",
    "torch",
    "jax",
    "scipy",
    "sklearn",
    "pytest",
    "matplotlib",
    "tokenizers",
    "safetensors",
]


def sources() -> dict[str, Path]:
    """Every module by its installed name; os.walk follows the two links."""
    found = {}
    for folder, _, names in os.walk(ROOT / "sora_ref", followlinks=True):
        for name in names:
            path = Path(folder, name)
            if path.suffix == ".py":
                found[".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")] = path
    return found


SOURCES = sources()


def room(module: str) -> str:
    """The room of a module of ours: a subfolder's name, or "spec" for the package's own files."""
    parts = module.split(".")
    if module == "sora_ref.__main__":  # the command line by another name
        return "cli"
    return parts[1] if len(parts) > 1 and parts[1] in ROOMS else "spec"


@cache
def imports(path: Path) -> frozenset[str]:
    """Modules a file imports, wherever in the file; `from package import module` names the module."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: a relative import"
            full = [f"{node.module}.{alias.name}" for alias in node.names]
            found |= {name if name in SOURCES else str(node.module) for name in full}
    return frozenset(found)


def test_every_room_is_walked() -> None:
    assert {"sora_ref", "sora_ref.linear", "sora_ref.backends", "sora_ref.models"} <= set(SOURCES)
    assert room("sora_ref.backends.numpy_backend") == "backends"
    assert room("sora_ref.linear") == room("sora_ref") == "spec"
    packages = {path.parent.name for path in (ROOT / "sora_ref").glob("*/__init__.py")}
    assert packages <= ROOMS.keys() | PACKAGES_OF_THE_SPECIFICATION


@pytest.mark.parametrize("module", sorted(SOURCES))
def test_imports_point_from_the_later_room_to_the_earlier(module: str) -> None:
    for imported in imports(SOURCES[module]):
        top = imported.split(".")[0]
        assert top not in ("backends", "models", "tests"), f"{module} imports {imported} by its bare name"
        if top == "sora_ref" and room(imported) != room(module):
            assert ROOMS[room(imported)] < ROOMS[room(module)], (
                f"{module} imports {imported}, of a room beside or above"
            )
            assert room(imported) in NARROWER.get(room(module), ROOMS), f"{module} imports {imported}"


@pytest.mark.parametrize("library", HOMES)
def test_a_library_is_imported_where_it_belongs_and_there_alone(library: str) -> None:
    users = {module for module, path in SOURCES.items() if library in {name.split(".")[0] for name in imports(path)}}
    homes = {home: {user for user in users if f"{user}.".startswith(f"{home}.")} for home in HOMES[library]}
    assert all(homes.values()), "a home without a user: expected it to be gone from HOMES"
    assert users <= set().union(*homes.values())


def test_no_modules_import_each_other_in_a_circle() -> None:
    """Imports inside functions count; that a module loads the packages it lies in does not."""
    arrows = {(module, imported) for module, path in SOURCES.items() for imported in imports(path)}
    graph: dict[str, set[str]] = {module: set() for module in SOURCES}
    for module, imported in arrows:
        if imported in SOURCES and imported != module:
            graph[module].add(imported)
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        raise AssertionError(" ← ".join(error.args[1])) from error


@pytest.mark.parametrize("module", sorted(name for name in SOURCES if room(name) == "spec"))
def test_specification_needs_numpy_and_the_array_layer_only(module: str) -> None:
    allowed = {*sys.stdlib_module_names, "numpy", "array_api_compat", "sora_ref"}
    assert {name.split(".")[0] for name in imports(SOURCES[module])} <= allowed


def loaded(*statements: str) -> list[set[str]]:
    """The modules that each statement loads, one after the other, in a process of their own."""
    code = ["import sys", "seen = set(sys.modules)"]
    for statement in statements:
        code += [statement, "print(*set(sys.modules) - seen)", "seen = set(sys.modules)"]
    done = subprocess.run([sys.executable, "-c", "\n".join(code)], capture_output=True, text=True, check=True)
    assert done.stderr == ""
    return [set(line.split()) for line in done.stdout.split("\n")[:-1]]


def test_importing_sora_ref_loads_its_version_and_a_name_of_it_the_specification_alone() -> None:
    _, package, used = loaded("import importlib.util, typing", "import sora_ref as sr", "sr.soft_threshold")
    assert package == {"sora_ref", "sora_ref.version"}
    assert {"sora_ref.public", "sora_ref.prox"} <= used
    assert {room(name) for name in used if name.startswith("sora_ref")} <= {"backends", "spec"}
    allowed = {*sys.stdlib_module_names, "numpy", "array_api_compat", "sora_ref"}
    tops = {name.partition(".")[0] for name in used}
    assert tops & set(FOREIGN) == set()
    assert {top for top in tops - allowed if not top.startswith(("_", "cython"))} == set()  # NumPy's own Cython types


def test_a_public_name_is_the_same_whichever_module_was_imported_first() -> None:
    """A module stands under its name in the package once it is loaded, and would hide a function of that name."""
    import sora_ref

    modules = {name.removeprefix("sora_ref.") for name in SOURCES}
    assert modules & set(sora_ref.__all__) == {"bounds", "schedules"}
    code = (
        "import importlib, sys\n"
        f"for first in {sorted(name for name in SOURCES if room(name) == 'spec' and name != 'sora_ref.__main__')!r}:\n"
        "    for name in [name for name in sys.modules if name.startswith('sora_ref')]: del sys.modules[name]\n"
        "    importlib.import_module(first)\n"
        "    import sora_ref as sr\n"
        "    same = [getattr(sr, name) is getattr(sys.modules['sora_ref.public'], name) for name in sr.__all__]\n"
        "    assert all(same), first\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.mark.parametrize("name", ["nope", "nope.deeper", "models.layers", "", "."])
def test_a_name_that_the_package_has_not_got_is_an_attribute_error(name: str) -> None:
    import sora_ref

    with pytest.raises(AttributeError, match="has no attribute"):
        getattr(sora_ref, name)


def test_package_list_equals_the_packages_on_disk() -> None:
    listed = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["tool"]["setuptools"]["packages"]
    on_disk = {name if path.name == "__init__.py" else name.rpartition(".")[0] for name, path in SOURCES.items()}
    assert sorted(listed) == sorted(on_disk)
    assert sorted(listed) == sorted(name for name, path in SOURCES.items() if path.name == "__init__.py")


def test_every_file_of_a_package_is_a_module_or_goes_into_the_wheel_by_its_pattern() -> None:
    """setuptools leaves out what no pattern names: without it kernels.cu would be missing where it is installed."""
    data = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["tool"]["setuptools"]["package-data"]
    files = [Path(folder, name) for folder, _, names in os.walk(ROOT / "sora_ref", followlinks=True) for name in names]
    others = [path.relative_to(ROOT) for path in files if path.suffix not in (".py", ".pyc")]
    assert Path("sora_ref", "kernels", "cuda", "kernels.cu") in others
    for path in others:
        patterns = data.get(".".join(path.parent.parts), [])
        assert any(path.match(pattern) for pattern in patterns), f"{path} goes into no wheel"


@pytest.mark.parametrize("module", sorted(SOURCES))
def test_no_module_is_longer_than_400_lines(module: str) -> None:
    assert len(SOURCES[module].read_text(encoding="utf-8").splitlines()) <= 400


def test_all_names_of_the_public_interface_exist_once() -> None:
    import sora_ref

    assert len(sora_ref.__all__) == len(set(sora_ref.__all__))
    assert all(hasattr(sora_ref, name) for name in sora_ref.__all__)


NUMERIC = sorted(name for name in SOURCES if room(name) in ("spec", "models") and name not in ON_HOST)


def is_scalar(node: ast.expr) -> bool:
    """A literal, or something that is plainly a Python number: a shape entry, len(…)."""
    source = ast.unparse(node)
    of_shape = isinstance(node, ast.Subscript) and ast.unparse(node.value).endswith(".shape")
    return isinstance(node, ast.Constant) or of_shape or source.startswith(("len(", "math."))


@pytest.mark.parametrize("module", NUMERIC)
def test_numerics_take_their_namespace_from_their_arguments(module: str) -> None:
    tree = ast.walk(ast.parse(SOURCES[module].read_text(encoding="utf-8")))
    named = [ast.unparse(node) for node in tree if isinstance(node, ast.Attribute)]
    assert [name for name in named if name.startswith(("np.", "numpy."))] == []


@pytest.mark.parametrize("module", [name for name in NUMERIC if name != "sora_ref.schedules"])
def test_numerics_do_not_pull_scalars_off_the_device(module: str) -> None:
    """`x.item()`, float(x), bool(x), int(x) each wait for the device; `schedules` deals in Python numbers."""
    found = []
    tree = ast.parse(SOURCES[module].read_text(encoding="utf-8"))
    fetched = {  # names bound to what `backends.to_host` returned: the one transfer that is allowed, by name
        ast.unparse(node.targets[0])
        for node in ast.walk(tree)
        if isinstance(node, ast.Assign) and ast.unparse(node.value).startswith("backends.to_host(")
    }
    for node in ast.walk(tree):
        if isinstance(node, ast.Call):
            method = node.func.attr if isinstance(node.func, ast.Attribute) else ""
            function = node.func.id if isinstance(node.func, ast.Name) else ""
            scalars = all(is_scalar(argument) or ast.unparse(argument) in fetched for argument in node.args)
            if method == "item" or (function in ("float", "bool", "int") and not scalars):
                found.append(ast.unparse(node))
    assert found == []
