"""What lies where tensors are expected: a Git LFS pointer, a pickle, pieces; and the command that helps."""

from __future__ import annotations

from pathlib import Path

from sora_ref.errors import printable
from sora_ref.preconditions import require

_LFS = b"version https://git-lfs.github.com/spec/"  # how every pointer begins
_PICKLES = {"model": "pytorch_model", "adapter_model": "adapter_model"}  # by the stem of the safetensors file


def require_no_pointer(path: Path, head: bytes) -> None:
    """SoRAError where a file with these first bytes is a Git LFS pointer; it says which command fetches the file."""
    require(
        not head.startswith(_LFS),
        f"{printable(str(path))}: a Git LFS pointer, not the file itself: expected its contents, which `git lfs pull` "
        f"in that repository fetches",
    )


def why_absent(path: Path) -> str | None:
    """One sentence where `path`, a safetensors file, is missing and its tensors lie beside it in another form.

    A pickle runs code when it is loaded, so none is ever opened here; PyTorch's own loader of tensors alone can.
    """
    name, stem, folder = printable(str(path)), path.stem, path.parent
    pickle = _PICKLES.get(stem, stem)
    if (folder / f"{path.name}.index.json").exists():
        return (
            f"{name}: no such file, only pieces of it and their index: expected one file; in that folder, with "
            f'PyTorch: python -c "from glob import glob; from safetensors.torch import load_file, save_file; save_file('
            f"dict(item for piece in glob('{stem}-*.safetensors') for item in load_file(piece).items()), "
            f"'{path.name}')\""
        )
    if (folder / f"{pickle}.bin").exists() or (folder / f"{pickle}.bin.index.json").exists():
        return (
            f"{name}: no such file, only {pickle}.bin, a pickle, which may hold code: expected safetensors; in that "
            f'folder, with PyTorch: python -c "from glob import glob; from torch import load; '
            f"from safetensors.torch import save_file; "
            f"save_file({{key: value.clone().contiguous() for piece in glob('{pickle}*.bin') "
            f"for key, value in load(piece, weights_only=True, map_location='cpu').items()}}, '{path.name}')\""
        )
    other = next((file.name for end in ("pt", "pth", "ckpt") if (file := folder / f"{stem}.{end}").exists()), None)
    if other is not None:
        return (
            f"{name}: no such file, only {other}, in PyTorch's own format, which may hold code: expected safetensors, "
            "as save_pretrained writes"
        )
    return None
