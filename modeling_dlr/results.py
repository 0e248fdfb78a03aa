"""The file that records a training run beside its model: its name, and the versions of the libraries in it."""

import importlib.metadata
import platform

RESULTS = "results.json"
_LIBRARIES = ("modeling-dlr", "torch", "transformers", "datasets", "accelerate", "tokenizers", "scikit-learn")


def library_versions() -> dict[str, str]:
    """The versions of Python and of the libraries that a run depends on, by name."""
    return {"python": platform.python_version()} | {name: importlib.metadata.version(name) for name in _LIBRARIES}
