"""Tables in Markdown."""

from collections.abc import Iterable, Sequence


def markdown_table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A table in Markdown, one line per row.

    >>> print(markdown_table(["task", "score"], [["shift", "0.98"]]))
    | task | score |
    | --- | --- |
    | shift | 0.98 |
    """
    return "\n".join(f"| {' | '.join(row)} |" for row in [header, ["---"] * len(header), *rows])
