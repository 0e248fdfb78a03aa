"""The oldest transformers that runs this code: a copy in a folder says so before it imports anything else."""

import transformers
from packaging.version import Version

TRANSFORMERS_FLOOR = "5.24"

if Version(transformers.__version__).release < Version(TRANSFORMERS_FLOOR).release:
    raise ImportError(
        f"This DLR model needs transformers >= {TRANSFORMERS_FLOOR}, but {transformers.__version__} is installed: "
        f'pip install "transformers>={TRANSFORMERS_FLOOR}".'
    )
