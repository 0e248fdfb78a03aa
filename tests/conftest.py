"""What every test shares: no network, one thread, one seed, and the device."""

import os

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
