"""Pushes that are refused, by us before anything is sent or by the Hub: each with its exit code and its reason."""

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
    """Each has its exit code and its sentence; nothing is made."""
    monkeypatch.setenv("HF_TOKEN", token)
    assert main(["push", str(folder), repo_id]) == code
    assert message in capfd.readouterr().err
    assert not hub.repositories


def test_folder_that_is_not_ready_is_not_pushed(hub: hub_server.Hub, ready: Path, tmp_path: Path):
    """Pushing begins with verifying."""
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


def test_private_is_not_pushed_to_what_is_public(hub: hub_server.Hub, folder: Path, capfd: pytest.CaptureFixture[str]):
    """Nothing is sent, nor is it shown as if it could be; what is private already is pushed to."""
    HfApi().create_repo("me/model")
    for options in ([], ["--dry-run"]):
        assert main(["push", str(folder), "me/model", "--private", *options]) == 2
        assert "me/model exists and is public" in capfd.readouterr().err
    assert list(hub.repositories["models/me/model"].files()) == [".gitattributes"]
    HfApi().create_repo("me/other", private=True)
    push(folder, "me/other", PushOptions(private=True))
    assert "config.json" in hub.repositories["models/me/other"].files()


@pytest.mark.parametrize("kind", [409, 500, "cut"])
def test_repository_that_is_not_made(kind: int | str, hub: hub_server.Hub, folder: Path):
    """Nor is anything sent where no repository can be made."""
    before = content(folder)
    hub.trouble("POST /api/repos/create", kind)
    said = "nothing was sent" if kind == "cut" else rf"was not written to: .* \(the Hub says: trouble {kind}\)"
    with pytest.raises(RemoteError, match=said):
        push(folder, "me/model")
    assert not [request for request in hub.requests if request.endswith("/commit/main")]
    assert content(folder) == before
    push(folder, "me/model")
    assert "config.json" in hub.repositories["models/me/model"].files()


@pytest.mark.parametrize(
    ("place", "status", "message"),
    [
        ("POST .*/commit/", 400, r"the Hub answered 400 \(the Hub says: trouble 400\)"),
        ("PUT /large", 403, r"the access token may not write there: .* \(the Hub says: trouble 403\)"),
        ("POST .*/commit/", 412, r"it has changed while this was prepared: push again \(the Hub says: trouble 412\)"),
    ],
)
def test_the_reason_of_the_hub_is_told(place: str, status: int, message: str, hub: hub_server.Hub, folder: Path):
    """Also where the client has wrapped it into an error of its own."""
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
    """It is the commit that must be known: what the Hub lists as its files proves nothing."""
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
    """Without one, the Hub would not notice that somebody else's is overwritten."""
    push(folder, "me/model")
    repository = commit_of_somebody_else(hub)
    monkeypatch.setattr(HfApi, "repo_info", lambda *_, **__: types.SimpleNamespace(sha=None))
    with pytest.raises(RemoteError, match="does not say its newest commit, and was not written to"):
        push(folder, "me/model")
    assert repository.files()["README.md"] == b"theirs"


def test_a_branch_that_somebody_else_has_made(hub: hub_server.Hub, folder: Path, monkeypatch: pytest.MonkeyPatch):
    """In between, it is not written to."""
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


def test_what_is_there_already_is_not_sent(hub: hub_server.Hub, folder: Path):
    """A folder that forgot what it pushed, as one that was killed after its commit, learns it again."""
    first = push(folder, "me/model")
    shutil.rmtree(folder / ".cache")
    assert push(folder, "me/model").oid == first.oid
    assert len(hub.repositories["models/me/model"].commits) == 2
    (folder / "notes.txt").write_text("more", encoding="utf-8")
    push(folder, "me/model")
    assert "notes.txt" in hub.repositories["models/me/model"].files()


@pytest.mark.parametrize("place", ["GET .*/models/me/model", "POST .*/preupload/", "PUT /large", "POST .*/commit/"])
@pytest.mark.parametrize("kind", ["hang", "drip"])
def test_a_hub_that_holds_on_is_let_go(place: str, kind: str, hub: hub_server.Hub, folder: Path):
    """Silent, or with a letter now and then: one line when the time is up, and it can be done again."""
    before = content(folder)
    hub.trouble(place, kind, times=99)
    with pytest.raises(
        RemoteError, match=r"did not finish its answer within 1 s|\(ReadTimeout: timed out\)"
    ) as refused:
        push(folder, "me/model", PushOptions(timeout=1))
    assert "\n" not in str(refused.value)
    hub.troubles.clear()
    push(folder, "me/model")
    assert content(folder).items() >= before.items()


@pytest.mark.parametrize("place", ["GET .*/models/me/model", "POST .*/batch", "PUT /large", "POST .*/commit/"])
def test_a_hub_that_asks_to_wait_for_hours(place: str, hub: hub_server.Hub, folder: Path):
    hub.trouble(place, "wait", times=99)
    with pytest.raises(RemoteError, match="asks to wait 7,200 s: try again after that"):
        push(folder, "me/model")


def test_an_answer_without_an_end(hub: hub_server.Hub, folder: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("hub_upload.http_bounds._LONGEST_ANSWER", 2**24)
    hub.trouble("GET .*/models/me/model", "flood", times=9)
    with pytest.raises(RemoteError, match="an answer of more than 16,777,216 bytes"):
        push(folder, "me/model")


def test_dry_run_without_a_network(folder: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]):
    """Lists what would be uploaded, verifies nothing, and says what cannot be said."""
    monkeypatch.setattr("hub_upload.push.verify", None)
    for offline in (True, False):
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", offline)
        monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")
        assert main(["push", str(folder), "me/model", "--dry-run"]) == 3
        said = capfd.readouterr()
        assert "  config.json (" in said.out
        (line,) = [line for line in said.err.splitlines() if line.startswith("modeling-dlr")]
        assert line.endswith("what a push would change there cannot be said without the Hub.")
        assert "--dry-run" not in line


@pytest.mark.parametrize("name", ["absent", "x" * 300, "a\0b", "loop", "loop/x", "file", "file/x", ""])
@pytest.mark.parametrize("arguments", [["verify"], ["card"], ["push", "me/model"], ["push", "me/model", "--dry-run"]])
def test_odd_folders(arguments: list[str], name: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]):
    """One line each, whatever a folder is called."""
    (tmp_path / "loop").symlink_to("loop")
    (tmp_path / "file").write_text("x", encoding="utf-8")
    assert main([arguments[0], str(tmp_path / name), *arguments[1:]]) == 2
    (line,) = capfd.readouterr().err.splitlines()
    assert line.startswith(f"modeling-dlr {arguments[0]}: ")


def test_a_folder_with_a_space_in_its_name(folder: Path, capfd: pytest.CaptureFixture[str]):
    """What the card calls its repository can be typed; what is typed is checked as it was typed."""
    odd = folder.rename(folder.with_name('my "model" (new)'))
    assert main(["card", str(odd), "--no-picture"]) == 0
    assert '"your-name/my-model-new"' in (odd / "README.md").read_text(encoding="utf-8")
    assert main(["card", str(odd), "--repo-id", "my model"]) == 2
    assert "'my model' is not a repository id" in capfd.readouterr().err


def test_a_command_that_is_told_to_end_cleans_up(folder: Path, monkeypatch: pytest.MonkeyPatch):
    """As one that is interrupted at the keyboard."""
    monkeypatch.setattr("hub_upload.__main__.verify", lambda *_, **__: signal.raise_signal(signal.SIGTERM))
    before = signal.getsignal(signal.SIGTERM)
    assert main(["verify", str(folder)]) == 130
    assert signal.getsignal(signal.SIGTERM) is before
