"""The table of what is fetched by name: every entry is pinned, and a key that is none is answered with the list."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from sora_ref.errors import SoRAError
from sora_ref.run.artefacts import ARTEFACTS, download, is_cached
from sora_ref.storage.artefact import Artefact


def test_unknown_artefact_is_answered_with_the_list() -> None:
    with pytest.raises(SoRAError, match="unknown artefact 'bert': expected one of minilm, bert-tiny, hutto2014"):
        download("bert")


def test_artefacts_are_looked_for_in_the_cache_of_the_environment(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("SORA_REF_CACHE", str(tmp_path))
    assert not any(map(is_cached, ARTEFACTS))
    seen: list[tuple[str, Path]] = []
    monkeypatch.setattr(
        "sora_ref.run.artefacts.obtain", lambda artefact, cache, say: seen.append((artefact.key, cache))
    )
    download("minilm")
    assert seen == [("minilm", tmp_path)]


@pytest.mark.parametrize("artefact", ARTEFACTS.values(), ids=list(ARTEFACTS))
def test_every_artefact_is_pinned_by_version_and_digest(artefact: Artefact) -> None:
    name, version = artefact.requirement.split("==")
    assert re.fullmatch(r"[0-9a-f]{64}", artefact.sha256)
    assert artefact.filename.startswith(f"{name.replace('-', '_')}-{version}")
    assert artefact.filename.endswith(".whl" if artefact.source == "wheel" else ".tar.gz")
    assert artefact.licence
    assert artefact.cite
    assert all("/" not in name for name in artefact.members)
    assert artefact.digests.keys() == artefact.members.keys()
    assert all(re.fullmatch(r"[0-9a-f]{64}", digest) for digest in artefact.digests.values())


@pytest.mark.parametrize("key", ["minilm", "bert-tiny"])
def test_model_folders_have_the_hugging_face_layout(key: str) -> None:
    assert {"config.json", "model.safetensors", "tokenizer.json"} <= set(ARTEFACTS[key].members)
