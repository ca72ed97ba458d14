"""The command that writes the golden vectors, or checks the files.

python -m sora_ref.conformance.golden write [FOLDER]    writes the files; the package's own where none is named
python -m sora_ref.conformance.golden check [FOLDER]    whether they are, bit for bit, what would be written
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from sora_ref.conformance.golden.cases import make
from sora_ref.conformance.golden.vector_file import FOLDER


def differing(folder: Any, made: Mapping[str, bytes]) -> list[str]:
    """The files in a folder that are not, bit for bit, what is made; absent ones among them."""
    return [
        name
        for name, content in made.items()
        if not (folder / name).is_file() or (folder / name).read_bytes() != content
    ]


def main(arguments: list[str] | None = None) -> int:
    """Write the files or check them; the exit status is 0 where all is as it should be."""
    parser = argparse.ArgumentParser(prog="python -m sora_ref.conformance.golden", description="The golden vectors.")
    parser.add_argument("action", choices=("write", "check"))
    parser.add_argument("folder", nargs="?", type=Path, help="where; by default the package's own files")
    given = parser.parse_args(arguments)
    folder: Any = given.folder or FOLDER
    made = make()
    if given.action == "write":
        Path(folder).mkdir(parents=True, exist_ok=True)
        for name, content in made.items():
            Path(folder, name).write_bytes(content)
        print(f"{len(made)} files, {sum(map(len, made.values())):,} bytes, in {folder}")
        return 0
    different = differing(folder, made)
    for name in different:
        print(f"{Path(folder, name)} is not what would be written")
    if not different:
        print(f"the files in {folder} are what would be written, bit for bit")
    return bool(different)


if __name__ == "__main__":
    sys.exit(main())
