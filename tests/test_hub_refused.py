"""Pushes that this package or the Hub refuses: exit codes and reasons."""

import shutil
import signal
import types
from pathlib import Path
from typing import Any

import hub_server
import pytest
from hub_disk import content
from huggingface_hub import HfApi, constants

from hub_upload.__main__ import main
from hub_upload.errors import InputError, NewerRemoteError, RemoteError
from hub_upload.push import PushOptions, push

# huggingface_hub sends files to Git LFS by an argument that its own HTTP client deprecates.
pytestmark = pytest.mark.filterwarnings("ignore:Use 'content=:DeprecationWarning")


@pytest.mark.parametrize(
    ("token", "repo_id", "code", "message"),
    [
        ("hf_wrong", "me/model", 3, "access token is not valid"),
        ("", "me/model", 3, "no access token"),
        (hub_server.TOKEN, "me", 2, "write name/repository"),
        (hub_server.TOKEN, "me/mo del", 2, "is not a repository id"),
        (hub_server.TOKEN, "a/b/c", 2, "is not a repository id"),
        (hub_server.TOKEN, "me/-model-", 2, "is not a repository id"),
    ],
    ids=["wrong token", "no token", "no name", "space", "three parts", "dashes"],
)
def test_bad_input(
    token: str,
    repo_id: str,
    code: int,
    message: str,
    hub: hub_server.Hub,
    folder: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
):
    """Each has its exit code and one line; no repository is created."""
    monkeypatch.setenv("HF_TOKEN", token)
    assert main(["push", str(folder), repo_id]) == code
    assert message in capfd.readouterr().err
    assert not hub.repositories


def test_folder_that_is_not_ready_is_not_pushed(hub: hub_server.Hub, ready: Path, tmp_path: Path):
    """A push verifies the folder first."""
    spoiled = Path(shutil.copytree(ready, tmp_path / "model"))
    (spoiled / "README.md").unlink()
    assert main(["push", str(spoiled), "me/model"]) == 1
    assert not hub.requests


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--branch", ""], "--branch must name a branch, got ''"),
        (["--branch", " "], "--branch must name a branch, got ' '"),
        (["--model-id", "me/model"], "add --repo-type space"),
    ],
    ids=["no branch", "blank branch", "model of no page"],
)
def test_options_without_effect_are_refused(
    options: list[str], message: str, hub: hub_server.Hub, folder: Path, capfd: pytest.CaptureFixture[str]
):
    assert main(["push", str(folder), "me/model", *options]) == 2
    assert message in capfd.readouterr().err
    assert not hub.requests


def test_wrong_parents_make_no_repository(hub: hub_server.Hub, folder: Path):
    with pytest.raises(InputError, match="must be 40 hexadecimal digits, got 'newest'"):
        push(folder, "me/model", PushOptions(parent_commit="newest"))
    with pytest.raises(NewerRemoteError, match="a new repository would be created"):
        push(folder, "me/model", PushOptions(parent_commit="0" * 40))
    with pytest.raises(InputError, match="is not a repository id"):
        push(folder, "me/page", PushOptions(repo_type="space", model_id='bad id"); import os #'))
    assert not hub.repositories


def test_private_refuses_a_public_repository(hub: hub_server.Hub, folder: Path, capfd: pytest.CaptureFixture[str]):
    """Also with --dry-run; an existing private repository is accepted."""
    HfApi().create_repo("me/model")
    for options in ([], ["--dry-run"]):
        assert main(["push", str(folder), "me/model", "--private", *options]) == 2
        assert "me/model exists and is public" in capfd.readouterr().err
    assert list(hub.repositories["models/me/model"].files()) == [".gitattributes"]
    HfApi().create_repo("me/other", private=True)
    push(folder, "me/other", PushOptions(private=True))
    assert "config.json" in hub.repositories["models/me/other"].files()


@pytest.mark.parametrize("kind", [409, 500, "cut"])
def test_repository_that_cannot_be_created(kind: int | str, hub: hub_server.Hub, folder: Path):
    """No file is sent."""
    before = content(folder)
    hub.trouble("POST /api/repos/create", kind)
    reason = "nothing was sent" if kind == "cut" else rf"the Hub says: trouble {kind}\)"
    with pytest.raises(RemoteError, match=reason):
        push(folder, "me/model")
    assert not [request for request in hub.requests if request.endswith("/commit/main")]
    assert content(folder) == before
    push(folder, "me/model")
    assert "config.json" in hub.repositories["models/me/model"].files()


@pytest.mark.parametrize(
    ("place", "status", "message"),
    [
        ("POST .*/commit/", 400, r"400 \(the Hub says: trouble 400\)"),
        ("PUT /large", 403, r"token .* \(the Hub says: trouble 403\)"),
        ("POST .*/commit/", 412, r"push again \(the Hub says: trouble 412\)"),
    ],
)
def test_reason_of_the_hub_is_reported(place: str, status: int, message: str, hub: hub_server.Hub, folder: Path):
    """Also if the client has wrapped it in its own error."""
    hub.trouble(place, status, times=9)
    with pytest.raises(RemoteError, match=message):
        push(folder, "me/model")


def commit_of_somebody_else(hub: hub_server.Hub) -> hub_server.Repository:
    repository = hub.repositories["models/me/model"]
    files = repository.commits[repository.references["main"]][1]
    repository.commit("main", files | {"README.md": hub_server.File(b"theirs", False)}, "theirs")
    return repository


@pytest.mark.parametrize("listing", ["empty", 404])
def test_a_wrong_listing_overwrites_nothing(listing: int | str, hub: hub_server.Hub, folder: Path):
    """The newest commit must be known, whatever files the Hub lists."""
    push(folder, "me/model")
    repository = commit_of_somebody_else(hub)
    hub.trouble("GET .*/tree/", listing, times=9)
    with pytest.raises(RemoteError):
        push(folder, "me/model")
    shutil.rmtree(folder / ".cache")
    with pytest.raises(RemoteError):
        push(folder, "me/model")
    assert repository.files()["README.md"] == b"theirs"


def test_a_repository_that_names_no_commit(hub: hub_server.Hub, folder: Path, monkeypatch: pytest.MonkeyPatch):
    """Without a parent commit, the Hub would not notice that it overwrites a newer one."""
    push(folder, "me/model")
    repository = commit_of_somebody_else(hub)
    monkeypatch.setattr(HfApi, "repo_info", lambda *_, **__: types.SimpleNamespace(sha=None))
    with pytest.raises(RemoteError, match="newest commit"):
        push(folder, "me/model")
    assert repository.files()["README.md"] == b"theirs"


def test_branch_created_in_between(hub: hub_server.Hub, folder: Path, monkeypatch: pytest.MonkeyPatch):
    """A branch that another user creates meanwhile is not written to."""
    push(folder, "me/model")
    repository = hub.repositories["models/me/model"]
    create = HfApi.create_branch

    def late(api: HfApi, *given: Any, **options: Any) -> None:
        repository.references["v2"] = commit_of_somebody_else(hub).references["main"]
        create(api, *given, **options)

    monkeypatch.setattr(HfApi, "create_branch", late)
    with pytest.raises(NewerRemoteError, match="has changed while"):
        push(folder, "me/model", PushOptions(branch="v2"))
    assert repository.files("v2")["README.md"] == b"theirs"


def test_unchanged_files_are_not_sent(hub: hub_server.Hub, folder: Path):
    """A folder without its record, as after a killed push, learns the commit again."""
    first = push(folder, "me/model")
    shutil.rmtree(folder / ".cache")
    assert push(folder, "me/model").oid == first.oid
    assert len(hub.repositories["models/me/model"].commits) == 2
    (folder / "notes.txt").write_text("more", encoding="utf-8")
    push(folder, "me/model")
    assert "notes.txt" in hub.repositories["models/me/model"].files()


@pytest.mark.parametrize("place", ["GET .*/models/me/model", "POST .*/preupload/", "PUT /large", "POST .*/commit/"])
@pytest.mark.parametrize("kind", ["hang", "drip"])
def test_slow_hub(place: str, kind: str, hub: hub_server.Hub, folder: Path):
    """A silent or slow Hub is one error at the time limit, and the next push works."""
    before = content(folder)
    hub.trouble(place, kind, times=99)
    with pytest.raises(RemoteError, match=r"within 1 s|ReadTimeout") as refused:
        push(folder, "me/model", PushOptions(timeout=1))
    assert "\n" not in str(refused.value)
    hub.troubles.clear()
    push(folder, "me/model")
    assert content(folder).items() >= before.items()


@pytest.mark.parametrize("place", ["GET .*/models/me/model", "POST .*/batch", "PUT /large", "POST .*/commit/"])
def test_a_hub_that_asks_to_wait_for_hours(place: str, hub: hub_server.Hub, folder: Path):
    hub.trouble(place, "wait", times=99)
    with pytest.raises(RemoteError, match="wait 7,200 s"):
        push(folder, "me/model")


def test_an_answer_without_an_end(hub: hub_server.Hub, folder: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("hub_upload.http_bounds._LONGEST_ANSWER", 2**24)
    hub.trouble("GET .*/models/me/model", "flood", times=9)
    with pytest.raises(RemoteError, match="an answer of more than 16,777,216 bytes"):
        push(folder, "me/model")


def test_dry_run_without_a_network(folder: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]):
    """It lists the files to upload, and says that the comparison needs the Hub."""
    monkeypatch.setattr("hub_upload.push.verify", None)
    for offline in (True, False):
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", offline)
        monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")
        assert main(["push", str(folder), "me/model", "--dry-run"]) == 3
        printed = capfd.readouterr()
        assert "  config.json (" in printed.out
        (line,) = [line for line in printed.err.splitlines() if line.startswith("modeling-dlr")]
        assert line.endswith("without the Hub.")
        assert "--dry-run" not in line


@pytest.mark.parametrize("name", ["absent", "x" * 300, "a\0b", "loop", "loop/x", "file", "file/x", ""])
@pytest.mark.parametrize("arguments", [["verify"], ["card"], ["push", "me/model"], ["push", "me/model", "--dry-run"]])
def test_unusual_folders(arguments: list[str], name: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]):
    """One line each, whatever the name of the folder is."""
    (tmp_path / "loop").symlink_to("loop")
    (tmp_path / "file").write_text("x", encoding="utf-8")
    assert main([arguments[0], str(tmp_path / name), *arguments[1:]]) == 2
    (line,) = capfd.readouterr().err.splitlines()
    assert line.startswith(f"modeling-dlr {arguments[0]}: ")


def test_a_folder_with_a_space_in_its_name(folder: Path, capfd: pytest.CaptureFixture[str]):
    """The card suggests a valid name for the repository; a given name is checked unchanged."""
    odd = folder.rename(folder.with_name('my "model" (new)'))
    assert main(["card", str(odd), "--no-picture"]) == 0
    assert '"your-name/my-model-new"' in (odd / "README.md").read_text(encoding="utf-8")
    assert main(["card", str(odd), "--repo-id", "my model"]) == 2
    assert "'my model' is not a repository id" in capfd.readouterr().err


def test_sigterm_cleans_up(folder: Path, monkeypatch: pytest.MonkeyPatch):
    """Like Ctrl-C."""
    monkeypatch.setattr("hub_upload.__main__.verify", lambda *_, **__: signal.raise_signal(signal.SIGTERM))
    before = signal.getsignal(signal.SIGTERM)
    assert main(["verify", str(folder)]) == 130
    assert signal.getsignal(signal.SIGTERM) is before
