"""Plan a push: compare every file to upload with the repository, by the hashes that the Hub stores."""

import hashlib
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from huggingface_hub import HfApi
from huggingface_hub.errors import RepositoryNotFoundError, RevisionNotFoundError
from huggingface_hub.hf_api import RepoFile

from .errors import RemoteError
from .file_kinds import uploaded_files

COMMIT = re.compile("[0-9a-f]{40}")
_PART = 2**20


@dataclass(frozen=True)
class Target:
    """The destination of a push: a branch of a model or space repository."""

    repo_id: str
    repo_type: str = "model"
    branch: str = "main"

    def __str__(self) -> str:
        return f"{self.repo_type}:{self.repo_id}@{self.branch}"


class Plan(NamedTuple):
    """A planned push: the commit it builds on (None for a new repository or branch), and the action for each file."""

    head: str | None
    exists: bool
    new: list[str]
    changed: list[str]
    same: list[str]
    remote_only: list[str]
    sizes: dict[str, int]

    def describe(self) -> str:
        """One line that says what the push builds on."""
        if not self.exists:
            return "a new repository would be created"
        return "a new branch would be created" if self.head is None else f"at commit {self.head}"

    def lines(self) -> Iterator[str]:
        """Yield one line per file, for `--dry-run`."""
        for sign, names in (("new", self.new), ("changed", self.changed), ("same", self.same)):
            for name in names:
                yield f"  {sign:8} {name} ({self.sizes[name]:,} bytes)"
        for name in self.remote_only:
            yield f"  {'kept':8} {name} (only there)"


def sizes_of(folder: Path) -> dict[str, int]:
    """The files that a push uploads, with their sizes; this needs no network."""
    return {path.relative_to(folder).as_posix(): path.stat().st_size for path in uploaded_files(folder)}


def make_plan(api: HfApi, folder: Path, target: Target) -> Plan:
    """Compare every file with the repository.

    Raises:
        RemoteError: if the Hub does not give the newest commit.
        HfHubHTTPError: if its files cannot be listed.
    """
    sizes = sizes_of(folder)
    try:
        head, exists = head_of(api, target), True
    except RepositoryNotFoundError:
        head, exists = None, False
    remote = {} if head is None else _listed(api, target, head)
    same = [name for name in sizes if name in remote and _is_same(folder / name, sizes[name], remote[name])]
    return Plan(
        head=head,
        exists=exists,
        new=[name for name in sizes if name not in remote],
        changed=[name for name in sizes if name in remote and name not in same],
        same=same,
        remote_only=[name for name in remote if name not in sizes],
        sizes=sizes,
    )


def head_of(api: HfApi, target: Target) -> str | None:
    """The newest commit of a branch; None if the branch, other than main, does not exist.

    Raises:
        RemoteError: if the Hub does not give a commit, or has no branch main.
        RepositoryNotFoundError: if the repository does not exist.
    """
    try:
        head = api.repo_info(target.repo_id, revision=target.branch, repo_type=target.repo_type).sha
    except RevisionNotFoundError:
        if target.branch != "main":
            return None
        head = None
    if head is None or not COMMIT.fullmatch(head):
        raise RemoteError(f"{target.repo_id} does not say its newest commit, and was not written to: try again later.")
    return head


def _listed(api: HfApi, target: Target, head: str) -> dict[str, RepoFile]:
    entries = api.list_repo_tree(target.repo_id, recursive=True, revision=head, repo_type=target.repo_type)
    return {entry.path: entry for entry in entries if isinstance(entry, RepoFile)}


def _is_same(path: Path, size: int, entry: RepoFile) -> bool:
    """Compare by size, then by SHA-256 for Git LFS files and by Git's hash for others."""
    if entry.size != size:
        return False
    digest = hashlib.sha256() if entry.lfs else hashlib.sha1(b"blob %d\0" % size, usedforsecurity=False)
    with path.open("rb") as file:
        while part := file.read(_PART):
            digest.update(part)
    return digest.hexdigest() == (entry.lfs.sha256 if entry.lfs else entry.blob_id)
