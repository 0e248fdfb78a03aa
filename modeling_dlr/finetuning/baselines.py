"""What simpler models reach on the same rows: the most frequent answer, and linear models of scikit-learn."""

import time
import warnings
from collections.abc import Iterator
from itertools import pairwise
from typing import Any

import numpy as np
from datasets import Dataset
from scipy.sparse import csr_array, hstack
from sklearn.feature_extraction.text import HashingVectorizer, TfidfVectorizer
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.multiclass import OneVsRestClassifier

from .encoding import Encoder
from .labels import character_labels
from .rows import cells_of, rows_of
from .scores import Scorer
from .signals import image_features, sound_features
from .splits import Splits

# Rows and characters on which a baseline is fitted at most.
FIRST_ROWS, MOST_ROWS = 500, 20_000
MOST_CHARACTERS = 20_000_000
# Characters of a text from which words are counted alone, not in pairs.
LONG = 4000
MOST_TOKENS = 100_000
_WINDOW = 5

Scores = dict[str, dict[str, float]]


def baselines(encoder: Encoder, table: Dataset, splits: Splits, scorer: Scorer, seconds: float) -> Scores:
    """The scores of the baselines on the test rows, by name.

    Args:
        encoder: how rows are read.
        table: the rows.
        splits: of the rows; those of validation choose what is to be chosen.
        scorer: gives the scores.
        seconds: that they may take, about: fewer rows are fitted where more would take longer.
    """
    if encoder.task.task == "tokens":
        return _of_tokens(encoder, table, splits, scorer)
    targets = _targets(encoder)
    wanted = targets[splits.test]
    found = {_name_of_majority(encoder): scorer.scores(_majority(encoder, targets[splits.train], len(wanted)), wanted)}
    count = FIRST_ROWS
    while True:
        train = _some(splits.train, count)
        began = time.perf_counter()
        name, features = _features(encoder, table, train)
        parts = [features(places) for places in (train, splits.validation, splits.test)]
        with warnings.catch_warnings(action="ignore", category=UserWarning):
            scores = _linear(encoder, parts, targets, (train, splits.validation), wanted)
        took = time.perf_counter() - began
        seconds -= took
        # Fitting takes somewhat longer than in proportion to the rows.
        count = int(min(MOST_ROWS, len(train) * seconds / took / 1.5))
        if len(train) == len(splits.train) or count <= 2 * len(train):
            few = f" ({len(train):,} rows)" if len(train) < len(splits.train) else ""
            return found | {f"{name}{few}": scores}


def _some(places: np.ndarray, most: int) -> np.ndarray:
    return places if len(places) <= most else places[:: -(-len(places) // most)]


def _targets(encoder: Encoder) -> np.ndarray:
    targets = encoder.labels.targets
    if encoder.task.task != "several labels":
        return targets
    matrix = np.zeros((len(targets), len(encoder.labels.names)), dtype=np.float32)
    for place, given in enumerate(targets):
        matrix[place, given] = 1
    return matrix


def _name_of_majority(encoder: Encoder) -> str:
    return "mean" if encoder.task.is_number else "most frequent"


def _majority(encoder: Encoder, targets: np.ndarray, count: int) -> np.ndarray:
    if encoder.task.is_number:
        return np.full(count, targets.mean())
    if encoder.task.task == "several labels":
        return np.tile((targets.mean(0) >= 0.5).astype(float), (count, 1))
    return np.full(count, np.bincount(targets).argmax())


def _features(encoder: Encoder, table: Dataset, train: np.ndarray) -> tuple[str, Any]:
    """The name of the linear model, and what gives the features of places."""
    task = encoder.task
    regression = "ridge" if task.is_number else "logistic regression"

    def paths(places: np.ndarray) -> Iterator[str]:
        return cells_of(table.select(places), "text")

    if task.input == "image":
        return f"pixels, {regression}", lambda places: np.stack(
            [image_features(encoder.processor, path, encoder.channels).ravel() for path in paths(places)]
        )
    if task.input == "sound":
        return f"mean spectrum, {regression}", lambda places: np.stack(
            [sound_features(encoder.processor, path).mean(0) for path in paths(places)]
        )
    letters = task.input == "dna" or len(encoder.processor) < 100
    longer = sum(map(len, cells_of(table.select(train[:100]), "text"))) > 100 * LONG
    words = (1, 1) if longer else (1, 2)
    kind: dict[str, Any] = {"analyzer": "char", "ngram_range": (3, 6)} if letters else {"ngram_range": words}
    name = f"{'k-mers' if letters else 'TF-IDF'}, {regression}"
    vectorizer = TfidfVectorizer(sublinear_tf=True, min_df=2 if len(train) > 500 else 1, max_features=200_000, **kind)
    limit = max(1000, MOST_CHARACTERS // max(1, len(train)))
    names = ["text", "other"] if task.task == "pairs" else ["text"]

    def texts(places: np.ndarray, name: str) -> Iterator[str]:
        return (text[:limit] for text in cells_of(table.select(places), name))

    vectorizer.fit(text for name in names for text in texts(train, name))
    if task.task == "pairs":

        def of_pairs(places: np.ndarray) -> Any:
            one, other = (csr_array(vectorizer.transform(texts(places, name))) for name in names)
            return hstack([one, other, abs(one - other), one * other], format="csr")

        return name, of_pairs
    return name, lambda places: vectorizer.transform(texts(places, "text"))


def _linear(
    encoder: Encoder, parts: list[Any], targets: np.ndarray, fitted: tuple[np.ndarray, np.ndarray], wanted: np.ndarray
) -> dict[str, float]:
    """The scores of the linear model, of which the validation rows choose the strength or the thresholds."""
    train, validation, test = parts
    given, held_out = (targets[places] for places in fitted)
    scorer = Scorer(encoder.task, encoder.labels)
    if encoder.task.is_number:
        models = [Ridge(alpha=alpha).fit(train, given) for alpha in (0.1, 1.0, 10.0)]
        best = max(models, key=lambda model: scorer.scores(model.predict(validation), held_out)["r2"])
        return scorer.scores(best.predict(test), wanted)
    regression = LogisticRegression(C=10, max_iter=300)
    if encoder.task.task == "several labels":
        model = OneVsRestClassifier(regression).fit(train, given)
        scorer.fit_thresholds(model.predict_proba(validation), held_out)
        return scorer.scores(model.predict_proba(test), wanted)
    return scorer.scores(regression.fit(train, given).predict(test), wanted)


def _of_tokens(encoder: Encoder, table: Dataset, splits: Splits, scorer: Scorer) -> Scores:
    """The most frequent class, that of each character, and a linear model of the characters around it."""
    size = max(1, len(splits.train) // 2000)
    train, test = (list(_characters(encoder, table, places)) for places in (splits.train[::size], splits.test))
    wanted = np.concatenate([labels for _, labels in test])
    counts = np.bincount(np.concatenate([labels for _, labels in train]), minlength=len(encoder.labels.names))
    found = {"most frequent": scorer.scores(np.full(len(wanted), counts.argmax()), wanted)}
    share = min(1.0, MOST_TOKENS / max(1, sum(len(text) for text, _ in train)))
    generator = np.random.default_rng(0)
    hashing: Any = HashingVectorizer(analyzer=lambda window: window, n_features=2**16, alternate_sign=False, norm=None)  # pyrefly: ignore[bad-argument-type] - None is documented
    windows, labels = [], []
    for text, given in train:
        chosen = np.flatnonzero(generator.random(len(text)) < share)
        windows += [_window(text, place) for place in chosen.tolist()]
        labels.append(given[chosen])
    with warnings.catch_warnings(action="ignore", category=UserWarning):
        model = LogisticRegression(C=1.0, max_iter=50).fit(hashing.transform(windows), np.concatenate(labels))
    predicted = [model.predict(hashing.transform([_window(text, i) for i in range(len(text))])) for text, _ in test]
    name = f"{_WINDOW} characters on both sides, logistic regression"
    return found | {name: scorer.scores(np.concatenate(predicted), wanted)}


def _characters(encoder: Encoder, table: Dataset, places: np.ndarray) -> Iterator[tuple[str, np.ndarray]]:
    for row in rows_of(table.select(places)):
        yield row["text"], character_labels(row, encoder.labels)


def _window(text: str, place: int) -> list[str]:
    """The characters around a place, each with its distance, alone and in pairs."""
    around = [text[i] if 0 <= i < len(text) else "" for i in range(place - _WINDOW, place + _WINDOW + 1)]
    single = [f"{i}{letter}" for i, letter in enumerate(around)]
    return single + [f"{i}{one}{other}" for i, (one, other) in enumerate(pairwise(around))]
