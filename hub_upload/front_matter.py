"""Read the front-matter of a card: the YAML between two lines of dashes at its beginning."""

import re
from pathlib import Path
from typing import Any

from .bounded_files import read_text
from .bounded_yaml import parse_yaml
from .errors import InputError

_BLOCK = re.compile(r"\s*---[ \t]*\n(.*?)\n---[ \t]*(?:\n|\Z)", re.DOTALL)


def read_front_matter(card: Path) -> dict[str, Any]:
    """Read the front-matter of a card; empty if it has none.

    Raises:
        InputError: if the file cannot be read, or its front-matter is not a mapping.
    """
    match = _BLOCK.match(read_text(card))
    data = parse_yaml(match[1], f"The front-matter of {card.name}") if match else {}
    if not isinstance(data, dict):
        raise InputError(f"The front-matter of {card.name} must be a mapping, got a {type(data).__name__}.")
    return data
