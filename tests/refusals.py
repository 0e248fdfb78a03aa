"""The error of a configuration."""

from typing import Any

import pytest
from huggingface_hub.errors import StrictDataclassError


def refusal(call: Any, *arguments: Any, **fields: Any) -> str:
    """The message of the one error that ``call`` raises."""
    with pytest.raises((ValueError, StrictDataclassError)) as caught:
        call(*arguments, **fields)
    return str(caught.value)
