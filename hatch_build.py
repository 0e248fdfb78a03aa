"""Make the links of README.md work on a package index, where the files of the repository are not beside it."""

import re
from pathlib import Path
from typing import Any

from hatchling.metadata.plugin.interface import MetadataHookInterface

# A link or a picture whose target is a file of the repository: not a URL, not a heading of the page itself.
_LINK = re.compile(r"(!?)\[([^\]]*)\]\((?![a-z]+:|#)([^)]+)\)")


def absolute_links(text: str, source: str | None) -> str:
    """Replace relative links by URLs below the repository ``source``, or by their words if it is None."""

    def replaced(match: re.Match[str]) -> str:
        exclamation, words, target = match.groups()
        if source is None:
            return words
        return f"{exclamation}[{words}]({source.rstrip('/')}/{'raw' if exclamation else 'blob'}/HEAD/{target})"

    return _LINK.sub(replaced, text)


class ReadmeHook(MetadataHookInterface):
    """Sets the readme in the metadata of the distributions."""

    def update(self, metadata: dict[str, Any]) -> None:
        """Add README.md, with links below the URL ``Source`` of the project if it is set."""
        text = (Path(self.root) / "README.md").read_text(encoding="utf-8")
        source = metadata.get("urls", {}).get("Source")
        metadata["readme"] = {"content-type": "text/markdown", "text": absolute_links(text, source)}
