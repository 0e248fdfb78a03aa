"""The oldest transformers that runs this code: a copy in a folder says so before it imports anything else."""

import transformers

TRANSFORMERS_FLOOR = "5.24"


def _release(version: str) -> list[int]:
    return [int(number) for number in version.split(".")[:2]]


if _release(transformers.__version__) < _release(TRANSFORMERS_FLOOR):
    raise ImportError(
        f"This DLR model needs transformers >= {TRANSFORMERS_FLOOR}, but {transformers.__version__} is installed: "
        f'pip install "transformers>={TRANSFORMERS_FLOOR}".'
    )
