"""A hook of MkDocs: the site shows the repository with docs/ as its root.

Files outside docs/ that the navigation or a page names become pages of the site, and links lead to them. A picture that
has a dark twin, ``name-dark.svg`` beside ``name.svg``, is shown in the colours of the page.
"""

import posixpath
import re
from pathlib import Path

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files, InclusionLevel
from mkdocs.structure.pages import Page

ROOT = Path(__file__).resolve().parent.parent.parent
# The pages outside docs/ that the navigation names.
PAGES = ("CHANGELOG.md", "CONTRIBUTING.md", "configuration/FIELDS.md", "configuration/README.md")

# Code, whose groups are None, or a link: its words, its target, and the heading there. Words may hold code.
_CODE = r"^```.*?^```$|`[^`\n]+`"
_LINK = r"(!?\[[^\]]*\]\()(?![a-z]+:|#)([^)#]+)(#[^)]*)?\)"
_CODE_OR_LINK = re.compile(f"{_CODE}|{_LINK}", re.MULTILINE | re.DOTALL)


def path_in_repository(site_path: str) -> str:
    """The file that a page of the site shows.

    >>> path_in_repository("heads.md"), path_in_repository("examples/walkthrough.py.md")
    ('docs/heads.md', 'examples/walkthrough.py')
    """
    inner = site_path.removesuffix(".md")
    if inner.endswith(".py"):
        return inner
    return site_path if site_path in PAGES else f"docs/{site_path}"


def path_on_site(path: str) -> str:
    """The page that shows a file of the repository.

    >>> path_on_site("docs/heads.md"), path_on_site("examples/walkthrough.py"), path_on_site("README.md")
    ('heads.md', 'examples/walkthrough.py.md', 'index.md')
    """
    if path == "README.md":
        return "index.md"
    if path.startswith("docs/"):
        return path.removeprefix("docs/")
    return path if path in PAGES else f"{path}.md"


def targets(markdown: str, path: str) -> set[str]:
    """The files of the repository that the text of a file links to."""
    folder = posixpath.dirname(path)
    links = (match[2] for match in _CODE_OR_LINK.finditer(markdown) if match[2])
    return {posixpath.normpath(posixpath.join(folder, link)) for link in links}


def translated(markdown: str, path: str, site_path: str) -> str:
    """The text of a file with links for its place on the site."""
    from_folder, to_folder = posixpath.dirname(path), posixpath.dirname(site_path)

    def link(match: re.Match[str]) -> str:
        words, target, heading = match[1], match[2], match[3] or ""
        if target is None:
            return match[0]
        page = path_on_site(posixpath.normpath(posixpath.join(from_folder, target)))
        shown = posixpath.relpath(page, to_folder or ".")
        dark = re.sub(r"\.svg$", "-dark.svg", page)
        if words.startswith("!") and dark != page and (ROOT / path_in_repository(dark)).is_file():
            other = posixpath.relpath(dark, to_folder or ".")
            return f"{words}{shown}#only-light)\n{words}{other}#only-dark)"
        return f"{words}{shown}{heading})"

    return _CODE_OR_LINK.sub(link, markdown)


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the pages outside docs/, those of the navigation and those that are linked."""
    pending = {f"docs/{file.src_uri}" for file in files.documentation_pages()} | set(PAGES)
    seen: set[str] = set()
    while pending:
        path = pending.pop()
        seen.add(path)
        text = (ROOT / path).read_text(encoding="utf-8")
        if not path.startswith("docs/"):
            content = text if path.endswith(".md") else f"# {path}\n\n````python\n{text}````\n"
            inclusion = InclusionLevel.INCLUDED if path in PAGES else InclusionLevel.NOT_IN_NAV
            files.append(File.generated(config, path_on_site(path), content=content, inclusion=inclusion))
        if path.endswith(".md"):
            found = {target for target in targets(text, path) if target.endswith((".md", ".py"))}
            pending |= {target for target in found if (ROOT / target).is_file()} - seen - {"README.md"}
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Let the links of a page lead to pages of the site."""
    if page.file.src_uri.endswith(".py.md"):
        return markdown
    return translated(markdown, path_in_repository(page.file.src_uri), page.file.src_uri)
