"""Pushing to a fake Hub: one complete commit or none, and never over newer commits."""

import contextlib
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path
from typing import Any

import hub_server
import hub_worker
import pytest
import torch
from datasets import Dataset
from hub_disk import content, files_of_at_most, refused
from huggingface_hub import HfApi, constants, hf_hub_download
from test_hub_convert import lightning_checkpoint
from transformers import AutoModelForSequenceClassification, Trainer, TrainingArguments

from hub_upload import push as push_module
from hub_upload.__main__ import main, parser
from hub_upload.callback import CardCallback
from hub_upload.card import CardOptions
from hub_upload.errors import NewerRemoteError, RemoteError
from hub_upload.push import PushOptions, dry_run, push
from modeling_dlr import DLRConfig, DLRForSequenceClassification
from modeling_dlr.tokenization import byte_tokenizer

# huggingface_hub sends files to Git LFS by an argument that its own HTTP client deprecates.
pytestmark = pytest.mark.filterwarnings("ignore:Use 'content=:DeprecationWarning")

ROOT = Path(__file__).resolve().parent.parent


def files_of(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()}


def environment(hub: hub_server.Hub, home: Path, **changes: str) -> dict[str, str]:
    """The environment of a process that uses the fake Hub, with a token, an empty cache, and without this package."""
    return os.environ | {
        "HF_ENDPOINT": hub.address,
        "HF_HUB_OFFLINE": "0",
        "HF_HUB_DISABLE_XET": "1",
        "HF_HUB_DISABLE_TELEMETRY": "1",
        "HF_TOKEN": hub_server.TOKEN,
        "HF_HOME": str(home),
        "PYTHONPATH": sysconfig.get_paths()["purelib"],
        **changes,
    }


def outputs_of(hub: hub_server.Hub, tmp_path: Path, repository: str, *revisions: str) -> list[dict[str, Any]]:
    """The outputs of each revision in a process without this package and with an empty cache."""
    found = tmp_path / "outputs.json"
    worker = Path(__file__).with_name("hub_worker.py")
    finished = subprocess.run(
        [sys.executable, "-S", str(worker), repository, str(found), *revisions],
        env=environment(hub, tmp_path / "home"),
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert finished.returncode == 0, finished.stderr
    return json.loads(found.read_text(encoding="utf-8"))


def trainer_of_words(folder: Path, card: CardCallback, **arguments: Any) -> Trainer:
    """A stock Trainer with the callback that writes the card."""
    tokenizer = byte_tokenizer()
    rows = [{**tokenizer(text), "labels": i} for i, text in enumerate(["good", "bad"])] * 4
    given = TrainingArguments(
        str(folder), max_steps=2, save_strategy="no", use_cpu=True, report_to="none", disable_tqdm=True, **arguments
    )
    config = DLRConfig(hidden_size=3, num_hidden_layers=1, state_size=5, bidirectional=True, pad_token_id=0)
    trainer = Trainer(
        DLRForSequenceClassification(config),
        given,
        train_dataset=Dataset.from_list(rows),
        eval_dataset=Dataset.from_list(rows),
        processing_class=tokenizer,
        compute_metrics=lambda prediction: {"accuracy": float((prediction[0].argmax(-1) == prediction[1]).mean())},
    )
    return card.attach(trainer)


def card_of_words() -> CardCallback:
    return CardCallback(CardOptions(picture=False, dataset="two words", repo_id="me/words"), {"accuracy_chance": 0.5})


def test_from_training_to_loading(hub: hub_server.Hub, tmp_path: Path):
    """Train, write the card, verify, push; a process without this package gets the same outputs."""
    trainer = trainer_of_words(tmp_path / "words", card_of_words())
    trainer.train()
    trainer.save_model()
    assert main(["push", str(tmp_path / "words"), "me/words", "--private"]) == 0
    repository = hub.repositories["models/me/words"]
    assert repository.private
    assert len(repository.commits) == 2
    sent = files_of(tmp_path / "words")
    assert "training_args.bin" in sent
    expected = {name: content for name, content in sent.items() if name != "training_args.bin"}
    assert {name: content for name, content in repository.files().items() if name != ".gitattributes"} == expected
    ours = json.loads(json.dumps(hub_worker.outputs_of(str(tmp_path / "words"))))
    first = repository.references["main"]
    repository.commit("main", repository.commits[first][1] | {"more.txt": hub_server.File(b"more", False)}, "more")
    assert outputs_of(hub, tmp_path, "me/words", "main", first) == [ours, ours]
    assert len(list((tmp_path / "home" / "hub" / "models--me--words" / "snapshots").iterdir())) == 2


def test_dry_run_writes_nothing(hub: hub_server.Hub, folder: Path, capfd: pytest.CaptureFixture[str]):
    """The plan lists every file as new, changed, unchanged, or only on the Hub."""
    before = files_of(folder)
    assert main(["push", str(folder), "me/model", "--dry-run"]) == 0
    printed = capfd.readouterr().out
    assert "a new repository would be created" in printed
    assert all(f"new      {name} (" in printed for name in before)
    assert not hub.repositories
    assert not [request for request in hub.requests if not request.startswith("GET")]
    assert files_of(folder) == before

    push(folder, "me/model")
    (folder / "notes.txt").write_text("new", encoding="utf-8")
    (folder / "README.md").write_text((folder / "README.md").read_text(encoding="utf-8") + "More.\n", encoding="utf-8")
    plan = dry_run(folder, "me/model")
    assert plan.head == hub.repositories["models/me/model"].references["main"]
    assert (plan.new, plan.changed, plan.remote_only) == (["notes.txt"], ["README.md"], [".gitattributes"])
    assert "model.safetensors" in plan.same


def test_plan_and_upload_have_the_same_files(hub: hub_server.Hub, folder: Path):
    """Whatever their names are, for the plan, the verification and the upload."""
    for name in (".env", "wandb/run.log", "notes [1].txt", "more/deep.txt"):
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_text("x", encoding="utf-8")
    plan = dry_run(folder, "me/model")
    assert {"notes [1].txt", "more/deep.txt"} <= set(plan.new)
    push(folder, "me/model")
    sent = hub.repositories["models/me/model"].files()
    assert sorted(plan.new) == sorted(sent.keys() - {".gitattributes"})
    assert not {".env", "wandb/run.log"} & sent.keys()


def test_one_commit_where_hf_xet_is_installed(hub: hub_server.Hub, folder: Path, monkeypatch: pytest.MonkeyPatch):
    """hf_xet would make several commits, and no time limit ends its requests."""
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", False)
    pytest.importorskip("hf_xet")
    push(folder, "me/model")
    assert len(hub.repositories["models/me/model"].commits) == 2
    assert constants.HF_HUB_DISABLE_XET is False


def test_second_push_sends_what_changed(hub: hub_server.Hub, folder: Path):
    """It builds on the commit that the folder recorded."""
    push(folder, "me/model")
    hub.requests.clear()
    (folder / "README.md").write_text((folder / "README.md").read_text(encoding="utf-8") + "More.\n", encoding="utf-8")
    push(folder, "me/model", PushOptions(message="Say more"))
    repository = hub.repositories["models/me/model"]
    assert [message for message, _ in repository.commits.values()] == ["initial commit", "Upload model", "Say more"]
    assert repository.files()["README.md"].endswith(b"More.\n")
    assert not [request for request in hub.requests if request.startswith("PUT")]


def test_newer_remote_is_never_overwritten(hub: hub_server.Hub, folder: Path, capfd: pytest.CaptureFixture[str]):
    """A newer commit is kept until --parent-commit names it."""
    push(folder, "me/model")
    repository = hub.repositories["models/me/model"]
    files = repository.commits[repository.references["main"]][1]
    theirs = files | {"README.md": hub_server.File(b"theirs", False)}
    newer = repository.commit("main", theirs, "theirs")
    local = files_of(folder)
    assert main(["push", str(folder), "me/model"]) == 4
    assert newer in capfd.readouterr().err
    assert repository.references["main"] == newer
    assert files_of(folder) == local
    shutil.rmtree(folder / ".cache")
    with pytest.raises(NewerRemoteError, match="does not know"):
        push(folder, "me/model")
    with pytest.raises(NewerRemoteError, match=f"--parent-commit is {'0' * 40}, but at commit {newer}"):
        push(folder, "me/model", PushOptions(parent_commit="0" * 40, pull_request=True))
    push(folder, "me/model", PushOptions(parent_commit=newer))
    assert repository.files()["README.md"] == local["README.md"]


def test_commit_in_between(hub: hub_server.Hub, folder: Path, monkeypatch: pytest.MonkeyPatch):
    """A commit between the plan and the upload is not overwritten."""
    push(folder, "me/model")
    repository = hub.repositories["models/me/model"]
    (folder / "README.md").write_text((folder / "README.md").read_text(encoding="utf-8") + "More.\n", encoding="utf-8")
    upload = HfApi.upload_folder

    def late(api: HfApi, **options: Any) -> Any:
        repository.commit("main", repository.commits[repository.references["main"]][1], "in between")
        return upload(api, **options)

    monkeypatch.setattr(HfApi, "upload_folder", late)
    with pytest.raises(NewerRemoteError, match="has changed while"):
        push(folder, "me/model")
    assert not repository.files()["README.md"].endswith(b"More.\n")


def test_pull_request_and_branch(hub: hub_server.Hub, folder: Path, capfd: pytest.CaptureFixture[str]):
    """main does not change, and each revision can be loaded."""
    push(folder, "me/model")
    repository = hub.repositories["models/me/model"]
    main_before = repository.references["main"]
    with torch.no_grad():
        model = DLRForSequenceClassification.from_pretrained(folder)
        model.classifier.bias.add_(1)
    model.save_pretrained(folder)
    assert main(["push", str(folder), "me/model", "--pull-request"]) == 0
    assert "/discussions/1" in capfd.readouterr().out
    assert main(["push", str(folder), "me/model", "--branch", "v2"]) == 0
    assert repository.references["main"] == main_before
    for revision in ("refs/pr/1", "v2"):
        loaded = AutoModelForSequenceClassification.from_pretrained(
            "me/model", revision=revision, cache_dir=constants.HF_HUB_CACHE
        )
        assert torch.equal(loaded.classifier.bias, model.classifier.bias)
    assert main(["push", str(folder), "me/model", "--pull-request", "--branch", "v2"]) == 2


@pytest.mark.parametrize("place", ["PUT /large", "POST .*/batch", "POST /verify"])
def test_server_that_fails_twice(place: str, hub: hub_server.Hub, folder: Path):
    """The third attempt of the client makes one complete commit."""
    hub.trouble(place, 503, times=2)
    push(folder, "me/model")
    sent = {name: content for name, content in files_of(folder).items() if name != "training_args.bin"}
    assert hub.repositories["models/me/model"].files().items() >= sent.items()
    assert len(hub.repositories["models/me/model"].commits) == 2


@pytest.mark.parametrize("place", ["POST .*/commit/", "POST .*/preupload/", "GET .*/tree/"])
@pytest.mark.parametrize("kind", [500, "cut"])
def test_failed_requests_leave_nothing(
    place: str, kind: int | str, hub: hub_server.Hub, folder: Path, monkeypatch: pytest.MonkeyPatch
):
    """For every kind of failure: one error, no change of the folder, and the next push works."""
    HfApi().create_repo("me/model")
    repository = hub.repositories["models/me/model"]
    before, local = repository.files(), files_of(folder)
    hub.trouble(place, kind, times=9)
    unread = "nothing was sent" if place.startswith("GET") else "--dry-run shows whether the commit is there"
    message = "me/model was not written to" if kind == 500 else unread
    with pytest.raises(RemoteError, match=message):
        push(folder, "me/model")
    if "commit" not in place or kind == 500:
        assert repository.files() == before
    assert files_of(folder) == local
    hub.troubles.clear()
    push(folder, "me/model")
    assert repository.files().items() >= local.items()


def test_killed_upload(hub: hub_server.Hub, folder: Path, tmp_path: Path):
    """If the process is killed while it uploads weights, the repository has no new file."""
    hub.trouble("PUT /large", "hang")
    code = (
        "import hub_upload.push as p; p.verify = lambda folder, **options: None; from pathlib import Path; "
        f"p.push(Path({str(folder)!r}), 'me/model')"
    )
    path = os.pathsep.join([str(ROOT), sysconfig.get_paths()["purelib"]])
    child = subprocess.Popen(
        [sys.executable, "-c", code],
        env=environment(hub, tmp_path / "home", PYTHONPATH=path),
        stderr=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
    )
    try:
        assert hub.reached.wait(120)
    finally:
        child.kill()
        child.wait()
    assert list(hub.repositories["models/me/model"].files()) == [".gitattributes"]
    hub.troubles.clear()
    push(folder, "me/model")
    assert hub.repositories["models/me/model"].files()["config.json"] == (folder / "config.json").read_bytes()


def test_interrupted_upload(hub: hub_server.Hub, folder: Path, monkeypatch: pytest.MonkeyPatch):
    """Ctrl-C has its own exit code, and the repository has no new file."""

    def interrupt(*_arguments: Any, **_options: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(HfApi, "create_commit", interrupt)
    assert main(["push", str(folder), "me/model"]) == 130
    assert list(hub.repositories["models/me/model"].files()) == [".gitattributes"]


def test_truncated_download_is_noticed(hub: hub_server.Hub, folder: Path, tmp_path: Path):
    """An incomplete file never enters the cache: the client repeats the request."""
    push(folder, "me/model")
    hub.trouble("GET .*/model.safetensors", "cut")
    with contextlib.suppress(OSError):
        hf_hub_download("me/model", "model.safetensors", cache_dir=tmp_path / "cache")
    found = hf_hub_download("me/model", "model.safetensors", cache_dir=tmp_path / "cache")
    assert Path(found).read_bytes() == (folder / "model.safetensors").read_bytes()


def test_trainer_pushes_the_same_files(hub: hub_server.Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """A stock Trainer with push_to_hub uploads this card with its scores, and the files that `push` uploads."""
    monkeypatch.setattr(push_module, "verify", lambda _folder, **_options: None)
    folder = tmp_path / "words"
    trainer = trainer_of_words(folder, card_of_words(), push_to_hub=True, hub_model_id="me/trainer")
    trainer.train()
    accuracy = trainer.evaluate()["eval_accuracy"]
    trainer.push_to_hub()
    theirs = hub.repositories["models/me/trainer"].files()
    assert f"| accuracy | {accuracy:.4f} | 0.5000 |" in theirs["README.md"].decode()
    assert {name: theirs[name] for name in files_of(folder)} == files_of(folder)
    push(folder, "me/ours")
    ours = hub.repositories["models/me/ours"].files()
    assert theirs.keys() - ours.keys() == {"training_args.bin"}
    assert {name: theirs[name] for name in ours} == ours
    trainer.save_model()  # which pushes, too
    assert hub.repositories["models/me/trainer"].files() == theirs


def test_trainer_alone_replaces_the_card(hub: hub_server.Hub, tmp_path: Path):
    """Without `attach`, push_to_hub uploads transformers' own card."""
    trainer = trainer_of_words(tmp_path / "words", card_of_words(), push_to_hub=True, hub_model_id="me/trainer")
    del trainer.create_model_card
    trainer.train()
    assert "accuracy" in (tmp_path / "words" / "README.md").read_text(encoding="utf-8")
    trainer.push_to_hub()
    assert b"generated_from_trainer" in hub.repositories["models/me/trainer"].files()["README.md"]


def test_models_push_the_same_files(hub: hub_server.Hub, folder: Path):
    """`push_to_hub` of model and tokenizer changes no pushed file, card included."""
    push(folder, "me/model")
    ours = hub.repositories["models/me/model"].files()
    DLRForSequenceClassification.from_pretrained(folder).push_to_hub("me/model")
    byte_tokenizer().push_to_hub("me/model")
    assert hub.repositories["models/me/model"].files() == ours


def test_push_on_a_full_disk(
    hub: hub_server.Hub, folder: Path, capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
):
    """The commit is complete, and a warning says that the folder could not record it."""
    before = content(folder)
    with files_of_at_most(10):
        assert main(["push", str(folder), "me/model"]) == 0
    sent = hub.repositories["models/me/model"].files()
    assert {name: sent[name] for name in before} == before
    assert "cannot remember commit" in caplog.text
    assert content(folder) == before


def test_page_on_a_full_disk(hub: hub_server.Hub, folder: Path, capsys: pytest.CaptureFixture[str]):
    """The demo page is written before the first request."""
    refused(10, ["push", str(folder), "me/demo", "--repo-type", "space"], capsys)
    assert not hub.requests


def test_help_shows_examples_that_parse(capsys: pytest.CaptureFixture[str]):
    """Every command's help has examples, and the parser accepts them."""
    for verb in ("convert", "card", "verify", "push"):
        with pytest.raises(SystemExit) as finished:
            main([verb, "--help"])
        assert finished.value.code == 0
        examples = re.findall(r"^  modeling-dlr (.+)$", capsys.readouterr().out, flags=re.MULTILINE)
        assert examples
        for example in examples:
            assert parser().parse_args(shlex.split(example)).verb == verb
    with pytest.raises(SystemExit) as finished:
        main(["fetch"])
    assert finished.value.code == 2


@pytest.mark.slow
def test_three_commands_of_the_readme(hub: hub_server.Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Convert, verify and push work as in README.md, with an official checkpoint."""
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    commands = re.findall(r"^modeling-dlr ((?:convert|card|verify|push) .+)$", text, flags=re.MULTILINE)
    assert [shlex.split(command)[0] for command in commands] == ["convert", "verify", "push"]
    monkeypatch.chdir(tmp_path)
    lightning_checkpoint("a_lra_pathfinder__dlr", tmp_path / "pathfinder.ckpt")
    for command in commands:
        assert main(shlex.split(command)) == 0
    files = hub.repositories["models/your-name/pathfinder"].files()
    assert {"README.md", "config.json", "model.safetensors", "kernels.png"} <= set(files)
    assert b"Converted from the checkpoint `pathfinder.ckpt`" in files["README.md"]
