"""What all tests share: no network, one thread, one seed, and the device."""

import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

os.environ["HF_HUB_OFFLINE"] = "1"  # read when transformers is imported, which the test modules do after this file
torch.set_num_threads(1)  # the tensors here are tiny: more threads would only wait for each other


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)


@pytest.fixture
def device() -> torch.device:
    """The accelerator when there is one, else the CPU."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


@pytest.fixture(scope="module")
def ready(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small text classifier that is ready for the Hub."""
    from test_hub_verify import make_folder

    return make_folder(tmp_path_factory.mktemp("ready") / "model")


@pytest.fixture
def folder(ready: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of the folder `ready`; pushing does not verify it again."""
    from hub_upload import push

    monkeypatch.setattr(push, "verify", lambda _folder, **_options: None)
    return Path(shutil.copytree(ready, tmp_path / "model"))


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """A fake Hub that the client of this process uses, with a token."""
    import hub_server

    with hub_server.in_place_of_the_hub(tmp_path, monkeypatch) as server:
        yield server
