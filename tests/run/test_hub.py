"""Models by name: a hub of a few lines on this machine stands in for the real one."""

from __future__ import annotations

import hashlib
import json
import re
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from tiny_run import base_keys, make_config, run_once, write_model, write_task

from sora_ref.errors import SoRAError
from sora_ref.peft import read_adapter
from sora_ref.run.base_model import model_folder, with_pinned_model
from sora_ref.run.config import load_config
from sora_ref.run.hub import FILES, hub_folder, pinned, repository
from sora_ref.run.ship import write_merged, write_peft
from sora_ref.run.trained import load_trained

FIRST, SECOND = "1" * 40, "2" * 40
NAME = "someone/tiny"


@dataclass
class Hub:
    """What the hub has: folders by commit, and the commit that main is; asked: the paths of all requests."""

    folders: dict[str, Path]
    main: str = FIRST
    asked: list[str] = field(default_factory=list)

    def answer(self, path: str) -> tuple[int, bytes, dict[str, str]]:
        """Status, body and headers for a path."""
        self.asked.append(path)
        path = path.partition("?")[0]
        if found := re.fullmatch(rf"/api/models/{NAME}(?:/revision/(\w+))?", path):
            commit = self.main if found[1] in (None, "main") else found[1]
            if commit in self.folders:
                return 200, json.dumps({"id": NAME, "modelId": NAME, "sha": commit, "siblings": []}).encode(), {}
            return 404, b"{}", {"X-Error-Code": "RevisionNotFound"}
        if found := re.fullmatch(rf"/api/models/{NAME}/tree/(\w+)", path):
            files = sorted(file for file in self.folders[found[1]].iterdir())
            listed = [{"type": "file", "path": f.name, "size": f.stat().st_size, "oid": tag(f)} for f in files]
            return 200, json.dumps(listed).encode(), {}
        if found := re.fullmatch(rf"/{NAME}/resolve/(\w+)/([\w.]+)", path):
            file = self.folders[found[1]] / found[2]
            return 200, file.read_bytes(), {"ETag": f'"{tag(file)}"', "X-Repo-Commit": found[1]}
        return 404, b"{}", {"X-Error-Code": "RepoNotFound"}


def tag(file: Path) -> str:
    return hashlib.sha1(file.read_bytes()).hexdigest()


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    from huggingface_hub import constants

    hub = Hub({FIRST: write_model(tmp_path / "first"), SECOND: write_model(tmp_path / "second", seed=1)})
    for folder in hub.folders.values():
        (folder / "pytorch_model.bin").write_bytes(b"a pickle")

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            status, body, headers = hub.answer(self.path)
            self.send_response(status)
            for name, value in {
                "Content-Length": str(len(body)),
                "Content-Type": "application/json",
                **headers,
            }.items():
                self.send_header(name, value)
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(body)

        do_HEAD = do_GET

        def log_message(self, *_: Any) -> None:
            """Say nothing."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    url = f"http://127.0.0.1:{server.server_port}"
    monkeypatch.setattr(constants, "ENDPOINT", url)
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", url + "/{repo_id}/resolve/{revision}/{filename}")
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.chdir(tmp_path)
    yield hub
    server.shutdown()
    server.server_close()
    thread.join()


def test_a_name_is_downloaded_once_and_only_what_is_read(hub: Hub) -> None:
    said: list[str] = []
    folder = model_folder(NAME, said.append)
    assert said == [f"looking for {NAME} on the Hugging Face hub"]
    assert folder.name == FIRST
    names = {path.name for path in folder.iterdir()}
    assert names == {path.name for path in hub.folders[FIRST].iterdir()} & set(FILES)
    assert all((folder / name).read_bytes() == (hub.folders[FIRST] / name).read_bytes() for name in names)
    hub.asked.clear()
    assert model_folder(NAME) == folder
    assert not any("resolve" in path for path in hub.asked)


def test_a_revision_is_a_name_of_its_own(hub: Hub) -> None:
    assert hub_folder(f"{NAME}@{SECOND}").name == SECOND
    assert hub_folder(NAME).name == FIRST
    hub.main = SECOND
    assert hub_folder(NAME).name == SECOND


def test_what_is_cached_is_used_without_a_network(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    from huggingface_hub import constants

    folder = hub_folder(NAME)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    hub.asked.clear()
    assert hub_folder(NAME) == hub_folder(f"{NAME}@{FIRST}") == folder
    assert hub.asked == []


def test_a_run_remembers_the_commit_that_a_name_meant(hub: Hub, tmp_path: Path) -> None:
    keys = base_keys(Path(NAME), write_task(tmp_path / "task"))
    run = tmp_path / "run"
    run_once(run, keys, train__epochs=1)
    assert load_config(run / "config.toml", {}).model.path == f"{NAME}@{FIRST}"
    hub.main = SECOND
    config = load_config(run / "config.toml", {})
    hub.asked.clear()
    assert with_pinned_model(config) == config
    assert hub.asked == []
    assert model_folder(config.model.path).name == FIRST


def test_what_leaves_a_run_calls_its_base_by_name_and_commit(hub: Hub, tmp_path: Path) -> None:
    """And merging takes the tokenizer out of the cache, whose snapshots are links."""
    run_once(tmp_path / "run", base_keys(Path(NAME), write_task(tmp_path / "task")), train__epochs=1)
    loaded = load_trained(tmp_path / "run")
    assert (loaded.setup.folder / "tokenizer.json").is_symlink()
    report = write_peft(loaded, tmp_path / "peft", "compact")
    config = read_adapter(tmp_path / "peft").config
    assert (config["base_model_name_or_path"], config["revision"]) == (NAME, FIRST)
    assert (report.base_model, report.local_base) == (NAME, False)
    write_peft(loaded, tmp_path / "told", "compact", "me/else")
    assert read_adapter(tmp_path / "told").config["revision"] is None
    write_merged(loaded, tmp_path / "merged")
    for name in ("peft", "merged"):
        assert f'base_model: "{NAME}"\n' in (tmp_path / name / "README.md").read_text()
    assert not any(path.is_symlink() for path in (tmp_path / "merged").iterdir())


@pytest.mark.parametrize("name", ["nobody/tiny", "nobody", f"{NAME}@nowhere"])
def test_what_the_hub_has_not_is_a_sentence(hub: Hub, name: str) -> None:
    with pytest.raises(
        SoRAError, match=f"model {name}: no such folder, and no such public model on the Hugging Face hub"
    ):
        model_folder(name)


@pytest.mark.parametrize("offline", [True, False])
def test_where_there_is_no_network_the_command_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, offline: bool
) -> None:
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", offline)
    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")  # nobody listens there
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(
        SoRAError, match=r"gave no answer .*; `hf download some/one --revision v1` fetches it"
    ) as caught:
        model_folder("some/one@v1")
    assert "\n" not in str(caught.value)


def test_a_model_of_a_pickle_alone_is_a_sentence(hub: Hub) -> None:
    (hub.folders[FIRST] / "model.safetensors").unlink()
    with pytest.raises(
        SoRAError, match=rf"without a model.safetensors: .*`hf download {NAME} --local-dir F`, `--model F`"
    ):
        hub_folder(NAME)


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("org/name", "org/name"),
        ("bert-base-uncased", "bert-base-uncased"),
        ("org/na.me_1@v1.0/x", "org/na.me_1"),
        ("./name", None),
        ("../name", None),
        ("/name", None),
        ("~/name", None),
        ("a/b/c", None),
        ("org/", None),
        ("org/name@", None),
        ("org/name\n", None),
        ("-org/name", None),
        ("", None),
        ("x" * 97, None),
    ],
)
def test_paths_are_no_names(name: str, expected: str | None) -> None:
    assert repository(name) == expected


def test_folders_and_fetched_models_keep_their_names(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_model(tmp_path / "someone" / "tiny")
    monkeypatch.chdir(tmp_path)
    for path in ("minilm", "someone/tiny", "./gone", "/gone"):
        config = make_config({"model.path": path})
        assert with_pinned_model(config) == config
    assert model_folder("someone/tiny") == tmp_path / "someone" / "tiny"
    assert pinned(f"a/b@{FIRST}") == f"a/b@{FIRST}"
