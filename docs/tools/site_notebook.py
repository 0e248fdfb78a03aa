"""Write docs/start.ipynb from docs/start.md: `python docs/tools/site_notebook.py`.

Blocks of Python become cells of code, without the answers that the page shows; all else becomes cells of text.
"""

import json
import re
from pathlib import Path
from typing import Any

DOCS = Path(__file__).resolve().parent.parent
PAGE, NOTEBOOK = DOCS / "start.md", DOCS / "start.ipynb"

_PYTHON = re.compile(r"^```python\n(.*?)^```\n", re.MULTILINE | re.DOTALL)


def cells(page: str) -> list[dict[str, Any]]:
    r"""The cells of a page.

    >>> [cell["cell_type"] for cell in cells("# Title\n\n```python\nprint(1)\n#> 1\n```\nEnd.\n")]
    ['markdown', 'code', 'markdown']
    """
    parts = _PYTHON.split(page)
    found = []
    for i, part in enumerate(parts):
        code = re.sub(r"^#> .*\n", "", part, flags=re.MULTILINE) if i % 2 else part
        if code.strip():
            cell = {"cell_type": "code" if i % 2 else "markdown", "id": f"cell-{i}", "metadata": {}}
            cell["source"] = code.strip().splitlines(keepends=True)
            found.append(cell | ({"execution_count": None, "outputs": []} if i % 2 else {}))
    return found


def notebook(page: str) -> str:
    """The notebook of a page, as it is written."""
    kernel = {"display_name": "Python 3", "language": "python", "name": "python3"}
    metadata = {"kernelspec": kernel, "language_info": {"name": "python"}}
    document = {"cells": cells(page), "metadata": metadata, "nbformat": 4, "nbformat_minor": 5}
    return json.dumps(document, indent=1, ensure_ascii=False) + "\n"


if __name__ == "__main__":
    NOTEBOOK.write_text(notebook(PAGE.read_text(encoding="utf-8")), encoding="utf-8")
