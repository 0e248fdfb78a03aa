"""Upload a verified folder to the Hub in one commit, without overwriting newer commits of others."""

import contextlib
import glob
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from huggingface_hub import CommitInfo, HfApi, constants, get_token

from .errors import InputError, NewerRemoteError, RemoteError
from .http_bounds import bounded_requests
from .model_folder import check_model_folder
from .plan import COMMIT, Plan, Target, head_of, make_plan, sizes_of
from .record import known_commit, remember
from .remote_errors import remote_errors
from .repo_ids import check_repo_id
from .space import space_folder, verify_space
from .verify import verify

# Time limits in seconds for the comparison and for the upload; an upload gets one more second per this many bytes.
_SECONDS, _BYTES_PER_SECOND = 600, 100_000


@dataclass
class PushOptions:
    """Options of a push.

    Args:
        private: create the repository as private; an existing public one is refused.
        branch: branch to push to, created if needed; by default main.
        pull_request: open a pull request instead of writing to a branch.
        parent_commit: the commit to build on, if the folder does not know it.
        message: commit message.
        repo_type: "model", or "space" for the demo page of the model.
        model_id: for a space only: the repository of the model; by default the space's name.
        timeout: time limit in seconds; by default ten minutes plus one second per 100 KB.
        trust_folder_code: also run code in the folder that is not this package's, as in `verify`.
    """

    private: bool = False
    branch: str | None = None
    pull_request: bool = False
    parent_commit: str | None = None
    message: str = "Upload model"
    repo_type: str = "model"
    model_id: str | None = None
    timeout: float | None = None
    trust_folder_code: bool = False


def push(folder: Path, repo_id: str, options: PushOptions | None = None) -> CommitInfo:
    """Verify a folder, then upload it in one commit.

    Args:
        folder: a model folder written by `save_pretrained`.
        repo_id: "name/repository".
        options: branch, pull request, privacy, parent, space.

    Returns:
        The new commit; the newest existing one if no file differs.

    Raises:
        InputError, VerificationError: before anything is uploaded.
        NewerRemoteError: if the repository has commits that this folder does not know.
        RemoteError: if there is no token, or the Hub refuses; the repository then does not change.
    """
    options = options or PushOptions()
    target = _target(repo_id, options)
    with _page_or_model(folder, repo_id, options) as upload:
        _refuse_no_token()
        _verify(upload, options)
        seconds = options.timeout or _SECONDS + sum(sizes_of(upload).values()) / _BYTES_PER_SECOND
        with bounded_requests(seconds) as bounds:
            api = HfApi()
            with remote_errors(repo_id, bounds, "nothing was sent"):
                plan = make_plan(api, upload, target)
                _refuse_public(api, plan, target, options)
                _refuse_other_parent(plan, repo_id, options)
                if not (options.pull_request or _is_known(api, plan, folder, target, options)):
                    if plan.new or plan.changed:
                        raise _newer(plan, target, known_commit(folder, str(target)))
                    done = _commit_there(api, plan.head, target)
                    remember(folder, str(target), done.oid)
                    return done
                head = plan.head or _make_branch(api, folder, plan, target, options)
            with remote_errors(repo_id, bounds, "--dry-run shows whether the commit is there; if not, push again"):
                done = _upload(api, upload, plan, target, options, head)
    if not options.pull_request:
        remember(folder, str(target), done.oid)
    return done


def dry_run(folder: Path, repo_id: str, options: PushOptions | None = None) -> Plan:
    """Compare a folder with the repository, then verify it, without writing anything.

    Raises:
        InputError, VerificationError, RemoteError: as in `push`.
    """
    options = options or PushOptions()
    target = _target(repo_id, options)
    with _page_or_model(folder, repo_id, options) as upload:
        with bounded_requests(options.timeout or _SECONDS) as bounds, remote_errors(repo_id, bounds, COMPARISON):
            api = HfApi()
            plan = make_plan(api, upload, target)
            _refuse_public(api, plan, target, options)
        _verify(upload, options)
        return plan


COMPARISON = "what a push would change there cannot be said without the Hub"


def local_files(folder: Path, repo_id: str, options: PushOptions) -> dict[str, int]:
    """The files that a push would upload, with their sizes, without verification and without a network.

    Raises:
        InputError: for invalid options or an invalid folder.
    """
    _target(repo_id, options)
    with _page_or_model(folder, repo_id, options) as upload:
        return sizes_of(upload)


@contextlib.contextmanager
def _page_or_model(folder: Path, repo_id: str, options: PushOptions) -> Iterator[Path]:
    """Give the folder to upload: the model folder, or a temporary folder with its demo page."""
    if options.repo_type == "model":
        check_model_folder(folder)
        yield folder
        return
    with space_folder(folder, options.model_id or repo_id) as page:
        yield page


def _verify(upload: Path, options: PushOptions) -> None:
    if options.repo_type == "model":
        verify(upload, trust_folder_code=options.trust_folder_code)
    else:
        verify_space(upload)


def _target(repo_id: str, options: PushOptions) -> Target:
    """The destination of the push; invalid names and options without effect are refused."""
    check_repo_id(repo_id)
    if options.model_id is not None:
        check_repo_id(options.model_id)
        if options.repo_type != "space":
            raise InputError("--model-id names the model of a demo page: leave it out, or add --repo-type space.")
    if options.parent_commit is not None and not COMMIT.fullmatch(options.parent_commit):
        raise InputError(f"--parent-commit must be 40 hexadecimal digits, got {options.parent_commit!r}.")
    if options.branch is not None and not options.branch.strip():
        raise InputError(f"--branch must name a branch, got {options.branch!r}: leave it out to push to main.")
    if options.pull_request and options.branch:
        raise InputError("A pull request is opened against main: leave out --branch, or --pull-request.")
    if options.timeout is not None and not 0 < options.timeout < 10**7:
        raise InputError(f"--timeout must be a number of seconds above 0, got {options.timeout}.")
    return Target(repo_id, options.repo_type, options.branch or "main")


def _refuse_no_token() -> None:
    if not get_token():
        raise RemoteError("There is no access token: run `hf auth login`, or set HF_TOKEN to one that may write.")


def _is_known(api: HfApi, plan: Plan, folder: Path, target: Target, options: PushOptions) -> bool:
    """Whether the push may build on the newest commit; only the commit counts, not the files that the Hub lists.

    It may if the caller names the commit, if the folder pushed it, or if it is a repository's empty first commit.
    """
    if plan.head in (None, options.parent_commit, known_commit(folder, str(target))):
        return True
    if plan.changed:
        return False
    commits = api.list_repo_commits(target.repo_id, revision=plan.head, repo_type=target.repo_type)
    return [commit.commit_id for commit in commits] == [plan.head]


def _make_branch(api: HfApi, folder: Path, plan: Plan, target: Target, options: PushOptions) -> str | None:
    """Create the repository and the branch if they do not exist; return their first commit."""
    main = Target(target.repo_id, target.repo_type)
    if not plan.exists:
        sdk = "gradio" if target.repo_type == "space" else None
        api.create_repo(target.repo_id, private=options.private or None, repo_type=target.repo_type, space_sdk=sdk)
    head = head_of(api, main)
    if target.branch != "main":
        api.create_branch(target.repo_id, branch=target.branch, revision=head, repo_type=target.repo_type)
    if head is not None:
        remember(folder, str(target), head)  # so that the push can be repeated if it fails after this point
    return head


def _upload(api: HfApi, upload: Path, plan: Plan, target: Target, options: PushOptions, head: str | None) -> CommitInfo:
    """Make one commit on ``head``; the Hub refuses it if the branch has a newer commit.

    The files are uploaded over HTTP. hf_xet would make several commits, and the Hub would check the parent of the first
    one only; hf_xet also has no time limit.
    """
    before, constants.HF_HUB_DISABLE_XET = constants.HF_HUB_DISABLE_XET, True
    try:
        return _send(api, upload, plan, target, options, head)
    finally:
        constants.HF_HUB_DISABLE_XET = before


def _send(api: HfApi, upload: Path, plan: Plan, target: Target, options: PushOptions, head: str | None) -> CommitInfo:
    return api.upload_folder(
        repo_id=target.repo_id,
        folder_path=upload,
        repo_type=target.repo_type,
        revision=None if options.pull_request else target.branch,
        create_pr=options.pull_request,
        parent_commit=head,
        commit_message=options.message,
        allow_patterns=[glob.escape(name) for name in plan.sizes],
    )


def _commit_there(api: HfApi, head: str | None, target: Target) -> CommitInfo:
    """The newest commit of a repository whose files do not differ."""
    place = f"{'spaces/' if target.repo_type == 'space' else ''}{target.repo_id}"
    return CommitInfo(f"{api.endpoint}/{place}/commit/{head}", "", "", str(head))


def _refuse_public(api: HfApi, plan: Plan, target: Target, options: PushOptions) -> None:
    """Refuse to upload private content to a public repository."""
    if options.private and plan.exists and not api.repo_info(target.repo_id, repo_type=target.repo_type).private:
        raise InputError(
            f"{target.repo_id} exists and is public, but --private is for new repositories: make it private in its "
            "settings at the Hub, or leave out --private."
        )


def _newer(plan: Plan, target: Target, known: str | None) -> NewerRemoteError:
    """The error for a newest commit that neither the folder knows nor the caller names."""
    return NewerRemoteError(
        f"{target.repo_id} is at commit {plan.head}, which this folder does not know"
        f"{f' (it last pushed {known})' if known else ''}, and was not changed: check it with --dry-run, then "
        f"push with --parent-commit {plan.head}, or with --pull-request."
    )


def _refuse_other_parent(plan: Plan, repo_id: str, options: PushOptions) -> None:
    """Refuse a parent that is not the newest commit, before a repository or a branch is created."""
    if options.parent_commit is not None and options.parent_commit != plan.head:
        raise NewerRemoteError(
            f"{repo_id} was not written to: --parent-commit is {options.parent_commit}, but {plan.describe()}. Look at "
            "it with --dry-run."
        )
