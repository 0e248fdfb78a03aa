"""A verified folder to the Hub in one commit, and never over what somebody else has put there since."""

import contextlib
import glob
import json
import logging
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from huggingface_hub import CommitInfo, HfApi, get_token
from huggingface_hub.errors import (
    EntryNotFoundError,
    HfHubHTTPError,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)
from huggingface_hub.hf_api import RepoFile
from huggingface_hub.utils.sha import git_hash, sha_fileobj

from .errors import HubUploadError, InputError, NewerRemoteError, RemoteError, reason_of
from .folders import write_whole
from .inspect_folder import uploaded_files
from .repo_ids import check_repo_id
from .space import space_folder, verify_space
from .verify import verify

logger = logging.getLogger(__name__)

_COMMIT = re.compile("[0-9a-f]{40}")

# Where a folder remembers what it last pushed: huggingface_hub's place for such notes, which no upload sends.
_RECORD = Path(".cache") / "huggingface" / "hub_upload.json"


@dataclass
class PushOptions:
    """How to push.

    Args:
        private: make a new repository private; one that is there and public is refused.
        branch: to push to; made if it is not there. By default main.
        pull_request: open one instead of writing to a branch.
        parent_commit: the commit on which this one may be put, if the folder does not know it.
        message: of the commit.
        repo_type: "model", or "space" for the demo page of the model.
        model_id: for a space only: the repository of the model; by default the space's own name.
    """

    private: bool = False
    branch: str | None = None
    pull_request: bool = False
    parent_commit: str | None = None
    message: str = "Upload model"
    repo_type: str = "model"
    model_id: str | None = None


class Plan(NamedTuple):
    """What a push would do: the commit it builds upon (None for a new repository or branch), and each file's fate."""

    head: str | None
    exists: bool
    new: list[str]
    changed: list[str]
    same: list[str]
    remote_only: list[str]
    sizes: dict[str, int]

    def describe(self) -> str:
        """One line: what it builds upon."""
        if not self.exists:
            return "a new repository would be made"
        return "a new branch would be made" if self.head is None else f"at commit {self.head}"

    def lines(self) -> Iterator[str]:
        """One line per file, as `--dry-run` prints them."""
        for sign, names in (("new", self.new), ("changed", self.changed), ("same", self.same)):
            for name in names:
                yield f"  {sign:8} {name} ({self.sizes[name]:,} bytes)"
        for name in self.remote_only:
            yield f"  {'kept':8} {name} (only there)"


def push(folder: Path, repo_id: str, options: PushOptions | None = None) -> CommitInfo:
    """Verify a folder, then upload it in one commit.

    Args:
        folder: of a model, as `save_pretrained` wrote it.
        repo_id: "name/repository".
        options: branch, pull request, privacy, parent, space.

    Raises:
        InputError, VerificationError: before anything is sent.
        NewerRemoteError: if the repository has commits that this folder does not know.
        RemoteError: if there is no token, or the Hub refuses; nothing is then visible there.
    """
    options = options or PushOptions()
    with _prepared(folder, repo_id, options) as upload, _remote_errors(repo_id):
        api = _api()
        plan = make_plan(api, upload, repo_id, options)
        _refuse_public(api, plan, repo_id, options)
        _refuse_other_parent(plan, repo_id, options)
        if not options.pull_request:
            _refuse_newer(plan, folder, repo_id, options)
        if not plan.exists:
            sdk = "gradio" if options.repo_type == "space" else None
            api.create_repo(repo_id, private=options.private or None, repo_type=options.repo_type, space_sdk=sdk)
        revision = _revision(options)
        if revision != "main":
            api.create_branch(repo_id, branch=revision, repo_type=options.repo_type, exist_ok=True)
        head = options.parent_commit or plan.head or _head(api, repo_id, revision, options.repo_type)
        done = api.upload_folder(
            repo_id=repo_id,
            folder_path=upload,
            repo_type=options.repo_type,
            revision=None if options.pull_request else revision,
            create_pr=options.pull_request,
            parent_commit=head,
            commit_message=options.message,
            allow_patterns=[glob.escape(name) for name in plan.sizes],
        )
    if not options.pull_request:
        _remember(folder, repo_id, options, done.oid)
    return done


def dry_run(folder: Path, repo_id: str, options: PushOptions | None = None) -> Plan:
    """Verify a folder and compare it with the repository; nothing is written anywhere.

    Raises:
        InputError, VerificationError, RemoteError: as `push` would.
    """
    options = options or PushOptions()
    with _prepared(folder, repo_id, options) as upload, _remote_errors(repo_id):
        api = HfApi()
        plan = make_plan(api, upload, repo_id, options)
        _refuse_public(api, plan, repo_id, options)
        return plan


@contextlib.contextmanager
def _prepared(folder: Path, repo_id: str, options: PushOptions) -> Iterator[Path]:
    """The verified folder to upload: the model's own, or its demo page in a temporary one."""
    _check_options(repo_id, options)
    if options.repo_type == "model":
        verify(folder)
        yield folder
        return
    with space_folder(folder, options.model_id or repo_id) as page:
        verify_space(page)
        yield page


def _check_options(repo_id: str, options: PushOptions) -> None:
    """Refuse names that are none, and options that would have no effect."""
    check_repo_id(repo_id)
    if options.model_id is not None:
        check_repo_id(options.model_id)
        if options.repo_type != "space":
            raise InputError("--model-id names the model of a demo page: leave it out, or add --repo-type space.")
    if options.parent_commit is not None and not _COMMIT.fullmatch(options.parent_commit):
        raise InputError(f"--parent-commit must be 40 hexadecimal digits, got {options.parent_commit!r}.")
    if options.branch is not None and not options.branch.strip():
        raise InputError(f"--branch must name a branch, got {options.branch!r}: leave it out to push to main.")
    if options.pull_request and options.branch:
        raise InputError("A pull request is opened against main: leave out --branch, or --pull-request.")


def _api() -> HfApi:
    if not get_token():
        raise RemoteError("There is no access token: run `hf auth login`, or set HF_TOKEN to one that may write.")
    return HfApi()


@contextlib.contextmanager
def _remote_errors(repo_id: str) -> Iterator[None]:
    """Whatever the client raises, as one sentence."""
    try:
        yield
    except HubUploadError:
        raise
    except Exception as error:
        refused = _answer_behind(error)
        if refused is not None:
            raise _refusal(repo_id, refused) from error
        raise RemoteError(
            f"{repo_id} gave no answer that can be read ({type(error).__name__}: {reason_of(error)}): --dry-run shows "
            "whether the commit is there; if not, push again."
        ) from error


def _answer_behind(error: BaseException | None) -> HfHubHTTPError | None:
    """The Hub's refusal that an exception is, or came from; None if it came from none."""
    while error is not None and not isinstance(error, HfHubHTTPError):
        error = error.__cause__ or error.__context__
    return error


def _refusal(repo_id: str, error: HfHubHTTPError) -> RemoteError:
    """What the Hub refused, with its own reason where it gave one."""
    status = error.response.status_code
    said = " ".join((error.server_message or "").split())
    reasons = {
        401: "the access token is not valid: run `hf auth login`, or set HF_TOKEN",
        403: "the access token may not write there: make one that may, or name a repository of yours",
        404: "it does not exist, or the token may not see it",
        409: "it has changed while this was prepared: push again",
        412: "it has changed while this was prepared: push again",
    }
    reason = reasons.get(status, f"the Hub answered {status}{'' if said else f': {reason_of(error)}'}")
    kind = NewerRemoteError if status in (409, 412) else RemoteError
    return kind(f"{repo_id} was not written to: {reason}{f' (the Hub says: {said})' if said else ''}.")


def make_plan(api: HfApi, folder: Path, repo_id: str, options: PushOptions) -> Plan:
    """Compare every file with the repository, by the hashes that the Hub keeps."""
    revision = _revision(options)
    head, there, exists = None, {}, True
    try:
        head = _head(api, repo_id, revision, options.repo_type)
        entries = api.list_repo_tree(repo_id, recursive=True, revision=head, repo_type=options.repo_type)
        there = {entry.path: entry for entry in entries if isinstance(entry, RepoFile)}
    except RepositoryNotFoundError:
        exists = False
    except (RevisionNotFoundError, EntryNotFoundError):
        head = None
    files = {path.relative_to(folder).as_posix(): path for path in uploaded_files(folder)}
    same = [name for name, path in files.items() if name in there and _is_same(path, there[name])]
    return Plan(
        head=head,
        exists=exists,
        new=[name for name in files if name not in there],
        changed=[name for name in files if name in there and name not in same],
        same=same,
        remote_only=[name for name in there if name not in files],
        sizes={name: path.stat().st_size for name, path in files.items()},
    )


def _revision(options: PushOptions) -> str:
    return options.branch or "main"


def _head(api: HfApi, repo_id: str, revision: str, repo_type: str) -> str | None:
    return api.repo_info(repo_id, revision=revision, repo_type=repo_type).sha


def _is_same(path: Path, entry: RepoFile) -> bool:
    """By SHA-256 for files of Git LFS, by Git's own hash for the others."""
    if entry.lfs is None:
        return git_hash(path.read_bytes()) == entry.blob_id
    with path.open("rb") as file:
        return sha_fileobj(file).hex() == entry.lfs.sha256


def _refuse_public(api: HfApi, plan: Plan, repo_id: str, options: PushOptions) -> None:
    """Refuse to send to a public repository what was meant to be private."""
    if options.private and plan.exists and not api.repo_info(repo_id, repo_type=options.repo_type).private:
        raise InputError(
            f"{repo_id} is there and public, and --private is for new repositories: make it private in its settings at "
            "the Hub, or leave out --private."
        )


def _refuse_newer(plan: Plan, folder: Path, repo_id: str, options: PushOptions) -> None:
    """Refuse to change a file of a commit that neither the folder remembers nor the caller names."""
    known = _record(folder).get(_key(repo_id, options))
    if not plan.changed or options.parent_commit is not None or plan.head == known:
        return
    raise NewerRemoteError(
        f"{repo_id} is at commit {plan.head}, which this folder does not know"
        f"{f' (it last pushed {known})' if known else ''}, and was not written to: look at it with --dry-run, then "
        f"push with --parent-commit {plan.head}, or with --pull-request."
    )


def _refuse_other_parent(plan: Plan, repo_id: str, options: PushOptions) -> None:
    """Refuse a parent that is not the newest commit, before a repository or a branch is made."""
    if options.parent_commit is not None and options.parent_commit != plan.head:
        raise NewerRemoteError(
            f"{repo_id} was not written to: --parent-commit is {options.parent_commit}, but {plan.describe()}. Look at "
            "it with --dry-run."
        )


def _key(repo_id: str, options: PushOptions) -> str:
    return f"{options.repo_type}:{repo_id}@{_revision(options)}"


def _record(folder: Path) -> dict[str, Any]:
    try:
        return json.loads((folder / _RECORD).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}


def _remember(folder: Path, repo_id: str, options: PushOptions, commit: str) -> None:
    record = _record(folder) | {_key(repo_id, options): commit}
    try:
        (folder / _RECORD).parent.mkdir(parents=True, exist_ok=True)
        write_whole((folder / _RECORD).parent, {_RECORD.name: (json.dumps(record, indent=2) + "\n").encode()})
    except (OSError, InputError) as error:
        logger.warning("Pushed, but the folder cannot remember commit %s: %s", commit, error)
