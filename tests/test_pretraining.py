"""Pretraining on bytes: what is hidden, what the corpus holds, and pieces that resume."""

import io
import json
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path
from typing import Any

import corpus
import few_labels
import numpy as np
import packages
import pretrain
import pretrained_folder
import pytest
import torch
from real_sets import RealSet, split_of
from real_texts import LABELLED, Texts
from rich.console import Console
from sklearn.linear_model import LogisticRegression
from sklearn.preprocessing import StandardScaler
from tiny import assert_same_tensors
from transformers import AutoModelForMaskedLM, AutoTokenizer, pipeline

from hub_upload.card import write_card
from modeling_dlr import (
    DLRConfig,
    DLRForMaskedLM,
    DLRForSequenceClassification,
    DLRForTokenClassification,
    DLRModel,
)
from modeling_dlr.finetuning import Task, TrainOptions, train
from modeling_dlr.finetuning.encoded import Collator
from modeling_dlr.finetuning.encoding import SPECIAL, Encoder
from modeling_dlr.finetuning.first_head import PENALTY, fit_last_layer
from modeling_dlr.finetuning.labels import Labels
from modeling_dlr.finetuning.models import build_model, recipe_for, with_installed_model
from modeling_dlr.finetuning.pretrained import DISTRIBUTIONS, installed_model
from modeling_dlr.finetuning.pretrained import pretrained_folder as pretrained_folder_of
from modeling_dlr.recipes import span_mask
from modeling_dlr.recipes.masking import IGNORED, masked_batch
from modeling_dlr.tokenization import byte_tokenizer, symbol_tokenizer
from modeling_dlr.training import newest_checkpoint
from modeling_dlr.weighted_loss import loss_by_counts

ROOT = Path(__file__).resolve().parent.parent
TINY = {"hidden_size": 8, "num_hidden_layers": 1, "state_size": 8}
KEPT = "A line that is long enough to be compared with others."
LEFT_OUT = "This long line occurs in a data set on which models are evaluated."


@pytest.mark.parametrize(("share", "span"), [(0.2, 5), (0.5, 1), (0.15, 63)])
def test_share_of_hidden_steps(share: float, span: int):
    """The share is as asked for, and a span is as long on average."""
    generator = np.random.default_rng(0)
    hidden = np.stack([span_mask(1000, share, span, generator) for _ in range(300)])[:, 2 * span :]
    assert abs(hidden.mean() - share) < 0.02
    # Where spans may overlap, a step is left with the next one if no span begins at it.
    stays = (~hidden[:, 1:] & ~hidden[:, :-1]).sum() / (~hidden[:, :-1]).sum()
    assert abs(stays - (1 - share) ** (1 / span)) < 0.02


def test_something_is_hidden():
    """However short a row is, a step of it is hidden."""
    assert span_mask(1, 0.01, 3, np.random.default_rng(0)).tolist() == [True]


@pytest.fixture
def unpacked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A package of each kind as it is unpacked, with a line of an evaluated text and a document twice."""
    monkeypatch.setattr(packages, "CACHE", tmp_path / "packages")
    generator = np.random.default_rng(0)
    for name, pattern in (("go", "{}.txt"), ("gcide", "{}.txt"), ("handbook", "{}.html")):
        folder = tmp_path / "packages" / name
        folder.mkdir(parents=True)
        (folder / "ARCHIVE").write_text(f"{name}.deb\n", encoding="utf-8")
        for i in range(300):
            words = " ".join(map(str, generator.integers(0, 10**6, 50)))
            text = f"{KEPT}\n{LEFT_OUT if i % 2 else ''}\n{words} é\n"
            (folder / pattern.format(i)).write_text(text, encoding="utf-8")
        (folder / pattern.format("twice")).write_bytes((folder / pattern.format(0)).read_bytes())
    return tmp_path


def built(folder: Path) -> list[dict[str, Any]]:
    sources = [
        corpus.Source(name, kind, pattern, 1)
        for name, kind, pattern in (("go", "code", "*.txt"), ("gcide", "english", "*.txt"), ("handbook", "other", "*"))
    ]
    return corpus.build(sources, [f"{LEFT_OUT.upper()}\n"], folder)


def test_corpus(unpacked: Path):
    """Lines of evaluated texts and repeated documents are left out, and the same files give the same bytes."""
    found = built(unpacked / "one")
    assert found == built(unpacked / "two")
    assert [entry["documents"] for entry in found if "documents" in entry] == [300] * 3
    text = np.load(unpacked / "one" / "train.npy").tobytes().decode()
    assert KEPT in text
    assert LEFT_OUT not in text
    sizes = {kind: len(np.load(unpacked / "one" / f"held_out_{kind}.npy")) for kind in corpus.KINDS}
    assert all(0 < size < len(text) / 20 for size in sizes.values())


def test_texts_of_files():
    """Markup is taken away, words stay."""
    page = "<head><title>no</title></head><p>Salt &amp; <b>pepper</b></p><script>no</script>"
    assert corpus.text_of_html(page).split() == ["Salt", "&", "pepper"]
    manual = '.\\" a comment\n.SH NAME\nls \\- list \\fIfiles\\fR'
    assert corpus.text_of_manual(manual).split() == ["NAME", "ls", "-", "list", "files"]


def trained(folder: Path, steps: int, minutes: float = 9) -> pretrain.Trainer:
    arguments = ["--minutes", str(minutes), "--steps", str(steps), "--output", str(folder / "run"), "--length", "63"]
    options = pretrain.parse([*arguments, "--batch-size", "3", "--every", "2", "--decay", "2"])
    trainer = pretrain.trainer_of(options, folder / "corpus", TINY)
    trainer.train(resume_from_checkpoint=newest_checkpoint(trainer.args))
    return trainer


@pytest.mark.slow
def test_pieces(unpacked: Path, capsys: pytest.CaptureFixture[str]):
    """A piece whose time is over ends with a checkpoint; the pieces after it give what one piece gives."""
    for folder in (unpacked, unpacked / "whole"):
        built(folder / "corpus")
    assert trained(unpacked, 4, minutes=0).state.global_step == 1
    pieces, whole = trained(unpacked, 4), trained(unpacked / "whole", 4)
    for name, value in whole.model.state_dict().items():
        torch.testing.assert_close(pieces.model.state_dict()[name], value, rtol=0, atol=0)
    printed = [json.loads(line) for line in capsys.readouterr().out.splitlines() if line.startswith("{")]
    assert {"eval_english_loss_bits", "eval_code_loss_bits", "eval_other_loss_bits"} <= set().union(*printed)

    folder = unpacked / "folder"
    pretrained_folder.write_folder(unpacked / "run" / "checkpoint-4", folder, unpacked / "corpus", length=63)
    assert not list(folder.glob("*.py"))
    model = AutoModelForMaskedLM.from_pretrained(folder, dtype="auto")
    kinds = {name: value.dtype for name, value in model.named_parameters()}
    assert {dtype for name, dtype in kinds.items() if ".kernel." in name} == {torch.float32}
    assert {dtype for name, dtype in kinds.items() if ".kernel." not in name} == {torch.bfloat16}
    assert AutoTokenizer.from_pretrained(folder)("né").input_ids == [82, 132, 107]
    (answer,) = pipeline("fill-mask", model=str(folder), top_k=1)("def __<mask>nit__(self):")
    assert len(answer["token_str"]) == 1
    metrics = json.loads((folder / "results.json").read_text(encoding="utf-8"))["metrics"]
    assert 0 < metrics["bits_english"] < 20
    assert metrics["bits_english_by_frequency"] < 8


def texts(count: int) -> Texts:
    """Texts of two classes, and one of them twice."""
    names = [("x" if i % 2 else "y") for i in range(count)]
    rows = [f"{name * 5} number {i} of some {name}" for i, name in enumerate(names)]
    return Texts([*rows, rows[0]], [*names, names[0]])


def test_splits_by_labels():
    """The test rows are those of every run; the others are as many of each class as asked for, or all."""
    few, other, whole = (few_labels.splits(texts(200), *given, test_rows=50) for given in ((8, 0), (8, 1), (0, 0)))
    assert few["test"] == other["test"] == whole["test"]
    assert few["train"] != other["train"]
    assert {part: len(rows.texts) for part, rows in few.items()} == {"train": 12, "validation": 4, "test": 50}
    assert few["train"].labels.count("x") == 6
    every = [text for rows in whole.values() for text in rows.texts]
    assert sorted(every) == sorted(set(texts(200).texts))


def files(count: int) -> RealSet:
    """Files of 3,000 letters, each of which has its number in the alphabet as a label."""
    generator = np.random.default_rng(0)
    inputs = [generator.integers(97, 104, 3000).astype(np.uint8) for _ in range(count)]
    return RealSet(inputs, [file.astype(np.int64) - 97 for file in inputs], split_of(range(count)), few_labels.LETTERS)


def test_windows_of_files():
    """As many windows as asked for, or all; a file is in one split; each character has its letter."""
    few, other, whole = (few_labels.windows(files(20), *given, test_rows=5) for given in ((8, 0), (8, 1), (0, 0)))
    assert few["test"] == other["test"] == whole["test"]
    assert few["train"] != other["train"]
    assert {part: len(rows.texts) for part, rows in few.items()} == {"train": 6, "validation": 2, "test": 5}
    assert {part: len(rows.texts) for part, rows in whole.items()} == {"train": 28, "validation": 4, "test": 5}
    assert all(rows.texts == rows.labels for rows in few.values())
    assert few_labels.accuracy_around(few) == 1


@pytest.fixture
def model(tmp_path: Path) -> Path:
    """A folder of a tiny model of bytes."""
    DLRForMaskedLM(DLRConfig(vocab_size=261, bidirectional=True, **TINY)).save_pretrained(tmp_path / "model")
    return tmp_path / "model"


def test_pretrained_weights(model: Path):
    """A classifier starts from the layers of the folder, and has its sizes."""
    labels = Labels("classes", np.zeros(2), ["a", "b"], np.ones(2), "of the test")
    tokenizer = pretrain.byte_tokenizer(add_prefix_space=False, split_special_tokens=True)
    encoder = Encoder(Task("classes", "text", ["text"], "label", ["a", "b"]), tokenizer, "", 0.0, labels)
    recipe = recipe_for(encoder, TrainOptions(pretrained=model))
    assert (recipe.hidden_size, recipe.layers) == (TINY["hidden_size"], TINY["num_hidden_layers"])
    built_model: Any = build_model(encoder, recipe, model)
    assert built_model.config.id2label == {0: "a", 1: "b"}
    assert built_model.config.pooling == recipe.pooling
    for name, value in DLRModel.from_pretrained(model).state_dict().items():
        torch.testing.assert_close(built_model.model.state_dict()[name], value, rtol=0, atol=0)


@pytest.fixture
def installed(model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """The name of a tiny model that an importable module holds."""
    name, module = next(iter(DISTRIBUTIONS.items()))
    (tmp_path / "path" / module).mkdir(parents=True)
    (tmp_path / "path" / module / "__init__.py").touch()
    shutil.copytree(model, tmp_path / "path" / module / name)
    monkeypatch.syspath_prepend(tmp_path / "path")
    return name


@pytest.mark.parametrize(
    ("task", "letters", "count", "options", "expected"),
    [
        ("tokens", False, 1000, {}, True),
        ("tokens", False, 1_000_000, {}, False),
        ("tokens", True, 1000, {}, False),
        ("classes", False, 1000, {}, False),
        ("tokens", False, 1000, {"layers": 1}, False),
        ("tokens", False, 1000, {"from_scratch": True}, False),
    ],
)
def test_installed_model(task: Any, letters: bool, count: int, options: dict[str, Any], expected: bool, installed: str):
    """Few texts with a label for every character start from it, unless they are letters or an option says otherwise."""
    tokenizer = symbol_tokenizer([*SPECIAL, *"ACGT"], separated=False, case="upper") if letters else byte_tokenizer()
    labels = Labels(task, ["a", "b"], np.zeros(2), [count, count], "of the test")
    encoder = Encoder(Task(task, "text", ["text"], "label", ["a", "b"]), tokenizer, "", 0.0, labels)
    chosen = with_installed_model(TrainOptions(**options), encoder).pretrained
    assert (None if chosen is None else chosen.name) == (installed if expected else None)


def test_no_model_is_installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("modeling_dlr.finetuning.pretrained.DISTRIBUTIONS", {"none": "no_such_module"})
    assert installed_model() is None
    (tmp_path / "no_such_module").mkdir()
    monkeypatch.syspath_prepend(tmp_path)  # an empty folder is a package, too
    assert installed_model() is None


@pytest.mark.slow
def test_training_from_an_installed_model(installed: str, tmp_path: Path):
    """It is named on the screen and in both cards, and gives the sizes."""
    (tmp_path / "data").mkdir()
    few_labels.write_splits(few_labels.windows(files(30), 16, 0, 5), tmp_path / "data")
    console = Console(record=True, file=io.StringIO(), width=200)
    report = train(tmp_path / "data", TrainOptions(epochs=1, output=tmp_path / "out", pictures=False), console=console)
    assert f"from {installed}" in console.export_text()
    assert report.training["hidden_size"] == TINY["hidden_size"]
    assert f"from the pretrained {installed}" in (tmp_path / "out" / "README.md").read_text()
    assert f"from the pretrained {installed}" in write_card(tmp_path / "out").read_text()


@pytest.mark.parametrize(
    "wrong", [{"layers": 3}, {"vocab_size": 300}, {"tokenizer": "byte-pairs"}, {"from_scratch": True}, {}], ids=str
)
def test_pretrained_options(wrong: dict[str, Any], model: Path):
    """What the pretrained model decides is no option, and its folder must hold a model."""
    name = next(iter(wrong), "pretrained").replace("_", "-")
    with pytest.raises(ValueError, match=f"--{name}"):
        TrainOptions(pretrained=model if wrong else model / "none", **wrong)


class _Fields(Encoder):
    """An encoder of rows that are encoded already."""

    def __init__(self, task: str):
        self.task, self.processor = Task(task, "text", ["text"], "label", ["a", "b", "c"]), None  # type: ignore


@pytest.mark.parametrize("head", [DLRForSequenceClassification, DLRForTokenClassification])
def test_last_layer(head: Any):
    """The last layer of a pretrained model is scikit-learn's logistic regression of its standardized features."""
    torch.manual_seed(0)
    model = head(DLRConfig(vocab_size=261, num_labels=3, problem_type="single_label_classification", **TINY))
    generator, each = np.random.default_rng(0), head is DLRForTokenClassification
    lengths = generator.integers(5, 30, 40)
    rows = [
        {
            "input_ids": generator.integers(5, 261, length),
            "labels": np.where(np.arange(length) < 3, -100, generator.integers(3, size=length)) if each else place % 3,
        }
        for place, length in enumerate(lengths)
    ]
    collator = Collator(_Fields("tokens" if each else "classes"))
    fit_last_layer(model, rows, collator, 7, loss_by_counts(None), most=40)  # type: ignore
    batch = collator(rows)
    features: list[np.ndarray] = []
    model.eval().classifier.register_forward_pre_hook(lambda _, inputs: features.append(inputs[0].numpy()))
    known = (batch["labels"] != -100).numpy()
    with torch.no_grad():
        logits = model(**batch).logits[known]
    read = StandardScaler().fit_transform(features[0][known])
    wanted = LogisticRegression(C=1 / (2 * PENALTY), tol=1e-8, max_iter=1000).fit(read, batch["labels"][known])
    np.testing.assert_allclose(logits.softmax(-1), wanted.predict_proba(read), atol=1e-3)


@pytest.mark.slow
def test_distribution(model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """The distribution of the weights has them in a folder, which is found by its name once it is installed."""
    name = pretrain.NAME
    with pytest.raises(ValueError, match="pip install modeling-dlr-bytes"):
        TrainOptions(pretrained=Path(name))
    source = shutil.copytree(ROOT / "pretrained", tmp_path / "source", ignore=shutil.ignore_patterns("dlr-*"))
    shutil.copytree(model, source / name)
    command = [sys.executable, "-m", "hatchling", "build", "--target", "wheel", "--directory", str(tmp_path)]
    subprocess.run(command, cwd=source, check=True, capture_output=True)
    with zipfile.ZipFile(next(tmp_path.glob("*.whl"))) as archive:
        archive.extractall(tmp_path / "installed")
    monkeypatch.syspath_prepend(tmp_path / "installed")
    assert TrainOptions(pretrained=Path(name)).pretrained == Path(name)
    folder = pretrained_folder_of(Path(name))
    assert (folder / "model.safetensors").read_bytes() == (model / "model.safetensors").read_bytes()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("data", "start"), [*(("news", start) for start in few_labels.STARTS), ("colours", "pretrained")]
)
def test_row_of_the_comparison(data: str, start: str, model: Path, monkeypatch: pytest.MonkeyPatch):
    """A row trains within its seconds, and says what it trained on."""
    monkeypatch.setattr(few_labels.time, "perf_counter", few_labels.time.perf_counter)  # which the row replaces
    monkeypatch.setitem(LABELLED, "news", lambda: texts(200))
    monkeypatch.setattr(few_labels, "colours", lambda _: files(60))
    labels = {"news": 8, "colours": 16}[data]
    line = few_labels.measure(few_labels.Row(data, labels, start, 0), model, seconds=5, test_rows=20)
    assert line["rows"] == {"train": 12, "validation": 4, "test": 20}
    assert 0 <= line["accuracy"] <= 1


@pytest.mark.slow
def test_training_that_does_harm(model: Path, tmp_path: Path):
    """Where the pretrained layers with a fitted last layer are best on the validation rows, they are kept."""
    parts = few_labels.splits(texts(100), 8, 0, 20)
    (tmp_path / "data").mkdir()
    few_labels.write_splits(parts, tmp_path / "data")
    options = TrainOptions(
        pretrained=model, learning_rate=100.0, state_learning_rate=100.0, epochs=1, output=tmp_path / "out"
    )
    report = train(tmp_path / "data", options, console=Console(quiet=True))
    assert report.history[0]["step"] == 0
    assert report.training[f"validation_{report.main}"] == report.history[0][f"eval_{report.main}"]
    kept = DLRModel.from_pretrained(tmp_path / "out").state_dict()
    assert_same_tensors(kept, DLRModel.from_pretrained(model).state_dict())


def test_table_of_the_comparison(tmp_path: Path):
    """Means over seeds with the least and the largest; nothing without results."""
    assert few_labels.table(tmp_path) == ""
    rows = [few_labels.Row("news", 8, "pretrained", seed)._asdict() | {"accuracy": seed / 2} for seed in range(3)]
    rows = [row | {"linear": 0.25} for row in rows]
    (tmp_path / "few_labels.json").write_text(json.dumps(rows), encoding="utf-8")
    assert "| news | 8 | 0.500 (0.000 … 1.000) |  |  | 0.250 (0.250 … 0.250) |" in few_labels.table(tmp_path)


def test_tokens_of_bytes():
    """Bytes are read as the tokenizer of the folder reads them."""
    tokenizer = pretrain.byte_tokenizer(add_prefix_space=False, split_special_tokens=True)
    text = "naïve 日本 <mask> \U0001f600\n"
    ids = pretrain.ids_of_bytes(tokenizer)
    assert ids[np.frombuffer(text.encode(), dtype=np.uint8)].tolist() == tokenizer(text).input_ids


@pytest.mark.parametrize("inputs", ["tokens", "values", "pixels", "pairs"])
def test_masked_batches(inputs: str):
    """What is hidden is the label, what is not stays, and padding is never hidden."""
    generator = torch.Generator().manual_seed(0)
    batch = {
        "tokens": {"input_ids": torch.randint(5, 9, (3, 63), generator=generator)},
        "pairs": {"input_ids": torch.randint(5, 9, (3, 2, 63), generator=generator)},
        "values": {"input_values": torch.rand(3, 63, generator=generator)},
        "pixels": {"pixel_values": torch.rand(3, 1, 7, 9, generator=generator)},
    }[inputs]
    (name, given), channels = next(iter(batch.items())), None if "input_ids" in batch else 1
    whole = given.reshape(-1, 63) if channels is None else given.reshape(-1, 63, 1)
    if inputs != "pixels":
        batch["attention_mask"] = torch.ones((*given.shape[:-1], 63), dtype=torch.long)
        batch["attention_mask"][..., 40:] = 0
    first, again, other = (masked_batch(batch, 4, channels, fixed=fixed) for fixed in (True, True, False))
    read = first["input_ids" if channels is None else "input_values"]
    hidden = first["labels"] != IGNORED if channels is None else ~first["labels"].isnan()
    assert (read[hidden] == (4 if channels is None else 0)).all()
    assert (first["labels"][hidden] == whole[hidden]).all()
    assert (read[~hidden] == whole[~hidden]).all()
    assert hidden.flatten(1).any(1).all()
    assert not hidden[:, 40:].any() or inputs == "pixels"
    assert all(torch.equal(value, again[key]) or value.isnan().any() for key, value in first.items())
    assert not torch.equal(hidden, other["labels"] != IGNORED if channels is None else ~other["labels"].isnan())
    assert name in batch
