"""Pushes that are refused, by us before anything is sent or by the Hub: each with its exit code and its reason."""

import shutil
from pathlib import Path

import hub_server
import pytest
from hub_disk import content
from huggingface_hub import HfApi

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
        (hub_server.TOKEN, "me/mo del", 2, "is no repository id"),
        (hub_server.TOKEN, "a/b/c", 2, "is no repository id"),
        (hub_server.TOKEN, "me/-model-", 2, "is no repository id"),
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
    with pytest.raises(NewerRemoteError, match="a new repository would be made"):
        push(folder, "me/model", PushOptions(parent_commit="0" * 40))
    with pytest.raises(InputError, match="is no repository id"):
        push(folder, "me/page", PushOptions(repo_type="space", model_id='bad id"); import os #'))
    assert not hub.repositories


def test_private_is_not_pushed_to_what_is_public(hub: hub_server.Hub, folder: Path, capfd: pytest.CaptureFixture[str]):
    """Nothing is sent, nor is it shown as if it could be; what is private already is pushed to."""
    HfApi().create_repo("me/model")
    for options in ([], ["--dry-run"]):
        assert main(["push", str(folder), "me/model", "--private", *options]) == 2
        assert "me/model is there and public" in capfd.readouterr().err
    assert list(hub.repositories["models/me/model"].files()) == [".gitattributes"]
    HfApi().create_repo("me/other", private=True)
    push(folder, "me/other", PushOptions(private=True))
    assert "config.json" in hub.repositories["models/me/other"].files()


@pytest.mark.parametrize("kind", [409, 500, "cut"])
def test_repository_that_is_not_made(kind: int | str, hub: hub_server.Hub, folder: Path):
    """Nor is anything sent where no repository can be made."""
    before = content(folder)
    hub.trouble("POST /api/repos/create", kind)
    said = "--dry-run shows" if kind == "cut" else rf"was not written to: .* \(the Hub says: trouble {kind}\)"
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
