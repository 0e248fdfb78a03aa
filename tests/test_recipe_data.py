"""Recipes on data sets: what is read from local files of each kind, and what is refused."""

import io
import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pytest
import torch
from datasets import Audio, Dataset, DatasetDict, Features, Value
from PIL import Image
from scipy.io import wavfile
from transformers import AutoFeatureExtractor, AutoImageProcessor, AutoTokenizer

from modeling_dlr import DLRForSequenceClassification
from modeling_dlr.cli.recipes import main
from modeling_dlr.recipes import running as train
from modeling_dlr.recipes.data import KINDS, Prepared, build_kind, character_tokenizer
from modeling_dlr.recipes.sources import load_splits, parted, some
from modeling_dlr.signal_heads_dlr import raster

RATE = 8000
WAVE = (np.sin(np.arange(60)) * 2**14).astype(np.int16)


@pytest.fixture(autouse=True)
def _cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Data sets are cached where the test ends."""
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "cache")


def write_texts(folder: Path) -> str:
    rows = [{"text": "ab\ncd" * (i + 1), "label": i % 2} for i in range(8)]
    Dataset.from_list(rows).to_csv(folder / "texts.csv")
    return str(folder / "texts.csv")


def write_pairs(folder: Path) -> str:
    """As the Long Range Arena has them: no header, and labels like 1.0."""
    for split in ("train", "eval", "test"):
        lines = [f"{i % 2}.0\tx{i}\ty{i}\t{'ab' * (i + 1)}\tccc" for i in range(6)]
        (folder / f"new_aan_pairs.{split}.tsv").write_text("\n".join(lines) + "\n", encoding="utf-8")
    return str(folder)


def write_images(folder: Path) -> str:
    for split in ("train", "test"):
        for name, colour in {"blue": (0, 0, 255), "red": (255, 0, 0)}.items():
            (folder / split / name).mkdir(parents=True)
            for i in range(4):
                Image.new("RGB", (5, 3), colour).save(folder / split / name / f"{i}.png")
    return str(folder)


def write_recordings(folder: Path) -> str:
    for name in ("noise", "no", "yes"):
        (folder / name).mkdir(parents=True)
        for i in range(8):
            wavfile.write(folder / name / f"{i}.wav", RATE, WAVE[: 50 + i])
    return str(folder)


# By recipe: what writes its data, and the options that fit these.
WRITTEN: dict[str, tuple[Callable[[Path], str], list[str]]] = {
    "lra-imdb-dss": (write_texts, ["validation_share=0.25"]),
    "lra-aan-dss": (write_pairs, []),
    "lra-cifar-dss": (write_images, ["image=image"]),
    "speech-commands-dss": (
        write_recordings,
        ['classes=["yes", "no"]', f"sampling_rate={RATE}", "validation_share=0.2", "test_share=0.2"],
    ),
}  # fmt: skip


def prepared(recipe: str, folder: Path) -> tuple[train.Run, Prepared]:
    """A recipe on the data that are written for it."""
    write, options = WRITTEN[recipe]
    (folder / "data").mkdir()
    source = write(folder / "data")
    arguments = ["--output_dir", str(folder / "out"), "--dataset", source, "--data_options", "label=label", *options]
    run = train.read_run(recipe, arguments)
    return run, train.prepare(run)


def batch_of(view: Any, count: int) -> dict[str, torch.Tensor]:
    return view.collate([view.data[i] for i in range(count)])


def test_texts(tmp_path: Path):
    """One token for each character, line breaks too, and an end; padding is masked."""
    run, data = prepared("lra-imdb-dss", tmp_path)
    assert (len(data.train.data), len(data.validation.data), dict(data.at_the_end)) == (6, 2, {})
    assert (run.source.max_length, run.source.min_count) == (2048, 15)
    batch = batch_of(data.train, 6)
    texts = [row["text"] for row in data.train.data]
    assert batch["attention_mask"].sum(1).tolist() == [len(text) + 1 for text in texts]
    tokens = [data.processor.convert_ids_to_tokens(row) for row in batch["input_ids"]]
    assert ["".join(row).replace("<pad>", "") for row in tokens] == [f"{text}<eos>" for text in texts]
    assert data.sizes["vocab_size"] == len(data.processor) == 3 + 5
    assert batch["labels"].tolist() == [row["label"] for row in data.train.data]


def test_characters():
    """What is cut off does not count, what is rare is unknown, and special tokens in a text are letters."""
    tokenizer = character_tokenizer(["aab\n", "a<eos>zzz"], max_length=5, min_count=2)
    assert tokenizer.get_vocab() == {"<pad>": 0, "<unk>": 1, "<eos>": 2, "a": 3}
    assert tokenizer("ab<eos>", truncation=True).input_ids == [3, 1, 1, 1, 2]


def test_text_pairs(tmp_path: Path):
    """Files without a header; both texts have one vocabulary and one length."""
    _, data = prepared("lra-aan-dss", tmp_path)
    batch = batch_of(data.train, 3)
    assert batch["input_ids"].shape == (3, 2, 7)
    assert batch["attention_mask"].sum(-1).tolist() == [[3, 4], [5, 4], [7, 4]]
    assert batch["labels"].tolist() == [0, 1, 0]
    assert list(data.sizes["id2label"].values()) == ["0", "1"]
    assert len(data.validation.data) == len(data.at_the_end["test"].data) == 6


def test_images(tmp_path: Path):
    """In grey, brought to the mean and the deviation of the recipe; folders are classes."""
    run, data = prepared("lra-cifar-dss", tmp_path)
    rows = [data.train.data[i] for i in range(len(data.train.data))]
    batch = data.train.collate(rows)
    assert batch["pixel_values"].shape == (len(rows), 3, 3, 5)
    grey = torch.tensor([29.0, 76.0])[batch["labels"]]  # of blue and red
    expected = (grey / 255 - run.source.mean) / run.source.std
    read = raster(batch["pixel_values"], 1).mean((1, 2))
    torch.testing.assert_close(read, expected, rtol=0, atol=0.01)  # Pillow would round grey to whole numbers
    assert list(data.sizes["id2label"].values()) == ["blue", "red"]


def test_recordings(tmp_path: Path):
    """Only the classes asked for, in that order; at half the rate every second sample comes."""
    _, data = prepared("speech-commands-dss", tmp_path)
    assert (len(data.train.data), len(data.validation.data), len(data.at_the_end["test"].data)) == (10, 3, 3)
    assert list(data.sizes["id2label"].values()) == ["yes", "no"]
    names = [Path(row["audio"]["path"]).parent.name for row in data.train.data]
    batch = batch_of(data.train, 10)
    assert [("yes", "no")[label] for label in batch["labels"]] == names
    whole, half = batch_of(data.at_the_end["test"], 1), batch_of(data.at_the_end["test_every_2"], 1)
    samples = WAVE[: whole["input_values"].shape[1]].astype(float)
    for found, expected in ((whole, samples), (half, samples[::2])):
        normal = (expected - expected.mean()) / expected.std()
        np.testing.assert_allclose(found["input_values"][0].numpy(), normal, rtol=0, atol=1e-3)
    assert {name: view.step for name, view in data.at_the_end.items()} == {
        "test": 1, "test_every_2": 1, "test_every_2_longer_steps": 2,
    }  # fmt: skip


def test_recordings_of_a_table(tmp_path: Path):
    """Files within a table, as the Hub has them, are read alike."""
    file = io.BytesIO()
    wavfile.write(file, RATE, WAVE)
    rows = [{"audio": {"bytes": file.getvalue(), "path": None}, "label": name} for name in ("no", "yes")]
    Dataset.from_list(rows).cast_column("audio", Audio(decode=False)).to_parquet(tmp_path / "a.parquet")
    kind = build_kind("recordings", {"sampling_rate": RATE, "max_samples": 10, "validation_share": 0.5})
    data = kind.prepare(load_splits(str(tmp_path / "a.parquet")), None, None)
    assert batch_of(data.train, 1)["input_values"].shape == (1, 10)


@pytest.mark.parametrize("recipe", WRITTEN)
def test_recipe_trains_on_files(recipe: str, tmp_path: Path):
    """Two steps on real files; the folder holds the model, its classes and what prepares its inputs."""
    write, options = WRITTEN[recipe]
    (tmp_path / "data").mkdir()
    source = write(tmp_path / "data")
    metrics = main([
        recipe, "--smoke", "--output_dir", str(tmp_path / "out"), "--dataset", source, "--data_options", "label=label",
        *options, "--disable_tqdm", "True", "--dataloader_pin_memory", "False",
    ])  # fmt: skip
    assert {"eval_accuracy", "eval_accuracy_batch_mean"} <= metrics.keys()
    assert ("eval_test_accuracy" in metrics) == (recipe != "lra-imdb-dss")
    assert ("eval_test_every_2_longer_steps_accuracy" in metrics) == (recipe == "speech-commands-dss")
    config = json.loads((tmp_path / "out" / "config.json").read_text(encoding="utf-8"))
    assert len(config["id2label"]) == 2
    auto = {"lra-cifar-dss": AutoImageProcessor, "speech-commands-dss": AutoFeatureExtractor}.get(recipe, AutoTokenizer)
    assert auto.from_pretrained(tmp_path / "out") is not None


def test_longer_time_steps():
    """Doubled for as long as they are needed, then what they were to the bit."""
    run = train.read_run("speech-commands-dss", ["--smoke", "--output_dir", "unused"])
    model = DLRForSequenceClassification(run.config)
    steps = train.time_steps(model)
    before = [step.detach().clone() for step in steps]
    with train.longer(steps, 2):
        for step, value in zip(steps, before, strict=True):
            torch.testing.assert_close(step.exp(), 2 * value.exp())
    assert steps
    assert all(torch.equal(step, value) for step, value in zip(steps, before, strict=True))


def test_parts():
    """Parts are drawn from the training rows where there are none; else what is there is kept."""
    rows = Dataset.from_dict({"label": list(range(20))})
    data = parted({"train": rows}, validation_share=0.1, test_share=0.2)
    assert {name: len(part) for name, part in data.items()} == {"train": 14, "test": 4, "validation": 2}
    assert sorted(label for part in data.values() for label in part["label"]) == list(range(20))
    assert parted({"train": rows, "test": rows.select([0])}, 0.0, 0.5)["validation"]["label"] == [0]
    assert some(rows, 4)["label"] == [0, 5, 10, 15]
    assert len(some(rows, 21)) == 20


# The option and its value, or the data set, that is wrong, and what is said.
MISTAKES: dict[str, tuple[str, list[str], type[Exception], str]] = {
    "option": ("lra-imdb-dss", ["txt=a"], ValueError, "have no option 'txt'; the options are"),
    "column": ("lra-imdb-dss", ["text=txt"], ValueError, r"no column 'txt'; it has \['text', 'label'\]"),
    "class": ("speech-commands-dss", ['classes=["maybe"]'], ValueError, "No row has the class 'maybe'; there are"),
    "no rows to score": ("lra-imdb-dss", ["validation_share=0"], ValueError, r"got only \['train'\]"),
    "rate": ("speech-commands-dss", ["sampling_rate=16000"], ValueError, "sampling_rate=16000 .* rate 8000"),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_mistakes(mistake: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    recipe, options, kind, message = MISTAKES[mistake]
    write, fitting = WRITTEN[recipe]
    monkeypatch.setitem(WRITTEN, recipe, (write, [*fitting, *options]))
    with pytest.raises(kind, match=message):
        batch_of(prepared(recipe, tmp_path)[1].train, 1)


def rows_of(**columns: list[Any]) -> DatasetDict:
    return DatasetDict({"train": Dataset.from_dict(columns)})


def test_cells_that_are_empty(capsys: pytest.CaptureFixture[str]):
    """Rows without a class or a text are left out, counted and named in one line."""
    kind = build_kind("texts", {"max_length": 5, "validation_share": 0.3})
    rows = rows_of(text=["a", "b", "c", " ", None, "d"], label=["x", None, "y", "x", None, "x"])
    data = kind.prepare(rows, None, None)
    assert (len(data.train.data) + len(data.validation.data), data.sizes["id2label"]) == (3, {0: "x", 1: "y"})
    assert re.findall(r"\d+(?: in '\w+')?", capsys.readouterr().out) == ["3", "6", "2 in 'text'", "2 in 'label'"]
    with pytest.raises(ValueError, match="Every row of the train split has an empty cell"):
        kind.prepare(rows_of(text=["a", None], label=[None, "y"]), None, None)


def test_images_that_are_missing(capsys: pytest.CaptureFixture[str]):
    """Cells that are no text are left out, too, without being decoded."""
    kind = build_kind("grey_images", {"validation_share": 0.5})
    image = Image.new("L", (3, 4))
    features = Features({"image": datasets.Image(), "label": Value("int64")})
    rows = Dataset.from_dict({"image": [image, None, image, image], "label": [0, 0, 1, 1]}, features)
    data = kind.prepare(DatasetDict({"train": rows}), None, None)
    assert len(data.train.data) + len(data.validation.data) == 3
    assert re.findall(r"\d+", capsys.readouterr().out)[:2] == ["1", "4"]


def test_images_of_several_sizes():
    kind = build_kind("grey_images", {"validation_share": 0.5})
    images = [{"image": Image.new("L", (3 + i, 4)), "label": i} for i in range(2)]
    with pytest.raises(ValueError, match=r"the same width and height, got \[\(3, 4\), \(4, 4\)\]"):
        kind.batch(kind.processor(Dataset.from_list(images)), images)


def test_a_data_set_whose_first_rows_are_not_as_they_must_be(tmp_path: Path):
    """It is said in a sentence, before a model is trained."""
    smoke = ["speech-commands-dss", "--smoke", "--output_dir", str(tmp_path / "out"), "--dataset", str(tmp_path)]
    wavfile.write(tmp_path / "a.wav", RATE, WAVE)
    with pytest.raises(SystemExit, match="has no training rows: put the recordings into one folder per class"):
        main(smoke)
    for name in "ab":
        (tmp_path / name).mkdir()
        for i in range(4):
            wavfile.write(tmp_path / name / f"{i}.wav", RATE, WAVE)
    options = ["classes=null", "sampling_rate=16000", "validation_share=0.3"]
    with pytest.raises(SystemExit, match=f"sampling_rate=16000 .* rate {RATE}"):
        main([*smoke, "--data_options", *options])


def test_sources_that_are_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """No such file, a file of no known kind, no training rows."""
    (tmp_path / "a.txt").write_text("a", encoding="utf-8")
    monkeypatch.setattr("datasets.config.HF_HUB_OFFLINE", True)
    with pytest.raises(FileNotFoundError, match="'nobody/nothing' was not found on this machine or on the Hub"):
        load_splits("nobody/nothing")
    with pytest.raises(ValueError, match=r"a \['.csv', .* file, got a.txt"):
        load_splits(str(tmp_path / "a.txt"))
    with pytest.raises(ValueError, match="has no split 'train'"):
        load_splits(str(tmp_path), {"test": "a.txt"}, ["text"])


def test_missing_library(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name, *rest: None)
    with pytest.raises(ModuleNotFoundError, match=r"needs SciPy: pip install 'modeling-dlr\[tasks\]'"):
        build_kind("recordings", {})


def test_kinds_are_known():
    assert train.SMOKE_DATA.keys() == KINDS.keys()
    with pytest.raises(ValueError, match="data must be one of"):
        build_kind("videos", {})
