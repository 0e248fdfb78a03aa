"""The model card: one whole card, and its parts."""

import json
import re
import shutil
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from datasets import Dataset
from huggingface_hub import ModelCard
from transformers import Trainer, TrainerState, TrainingArguments

from hub_upload.__main__ import main
from hub_upload.callback import CardCallback, scores_of_the_weights
from hub_upload.card import CardOptions, MetricTable, write_card
from hub_upload.errors import InputError
from hub_upload.samples import SAMPLES
from hub_upload.tiny_folders import write_tiny
from modeling_dlr import DLRConfig, DLRForSequenceClassification, DLRForTokenClassification, DLRModel
from modeling_dlr.auto_dlr import AUTO_CLASSES
from modeling_dlr.tokenization import byte_tokenizer

WHOLE_CARD = Path(__file__).parent / "golden" / "card.md"
RESULTS = {
    "command": "python train.py",
    "seed": 3,
    "versions": {"python": "3.11", "torch": "2.13"},
    "data": {"fingerprint": "abc", "rows": {"train": 1700, "test": 425}},
    "metrics": {"accuracy": 0.97765, "accuracy_95": [0.9589, 0.988], "accuracy_tfidf": 0.9835, "test_texts": 425},
    "recipe": {
        "task": "text-classification",
        "dataset": "bbc-news",
        "max_length": 512,
        "state_learning_rate": 0.001,
        "training_arguments": {"learning_rate": 0.002, "num_train_epochs": 3},
    },
    "training_seconds": 64.5,
}


def folder_of(model_class: type, folder: Path, results: dict[str, Any] | None = None, **fields: Any) -> Path:
    torch.manual_seed(0)
    sizes = {"hidden_size": 3, "num_hidden_layers": 2, "state_size": 5, "bidirectional": True}
    model_class(DLRConfig(**sizes | fields)).save_pretrained(folder)
    if results is not None:
        (folder / "results.json").write_text(json.dumps(results), encoding="utf-8")
    return folder


def test_whole_card(tmp_path: Path):
    """The whole text of a card is that of the golden file."""
    folder = folder_of(DLRForSequenceClassification, tmp_path / "news", RESULTS)
    options = ["--language", "en", "--repo-id", "me/news", "--limit", "It knows British newspapers only."]
    assert main(["card", str(folder), *options]) == 0
    assert (folder / "README.md").read_text(encoding="utf-8") == WHOLE_CARD.read_text(encoding="utf-8")
    assert (folder / "kernels.png").read_bytes().startswith(b"\x89PNG")


def test_python_of_the_card_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """The three ways to use the model work as the card shows them."""
    folder = folder_of(DLRForSequenceClassification, tmp_path / "news", RESULTS)
    byte_tokenizer().save_pretrained(folder)
    write_card(folder, CardOptions(repo_id="me/news", picture=False))
    (tmp_path / "me").mkdir()
    shutil.move(folder, tmp_path / "me" / "news")
    monkeypatch.chdir(tmp_path)
    text = (tmp_path / "me" / "news" / "README.md").read_text(encoding="utf-8")
    blocks = re.findall(r"```python\n(.*?)```", text, flags=re.DOTALL)
    assert len(blocks) == 3
    names: dict[str, Any] = {}
    for block in blocks:
        exec(block, names)  # noqa: S102 - it is what a reader does
    assert names["outputs"].logits.shape == (1, 2)
    assert type(names["model"]) is DLRForSequenceClassification


def test_card_of_a_model_of_values(tmp_path: Path):
    """No pipeline reads values, so the card names none, and shows how to call the model."""
    folder = folder_of(DLRForTokenClassification, tmp_path / "waves", input_size=3, vocab_size=None)
    write_card(folder, CardOptions(picture=False))
    card = ModelCard.load(folder / "README.md")
    assert card.data.pipeline_tag is None
    assert card.data.get("widget") is None
    assert "pipeline(" not in card.text
    assert "reads 3 real values per step" in card.text
    (block, _) = re.findall(r"```python\n(.*?)```", card.text, flags=re.DOTALL)
    names: dict[str, Any] = {}
    exec(block.replace("your-name/waves", str(folder)), names)  # noqa: S102 - it is what a reader does
    assert names["outputs"].logits.shape == (1, 100, 2)


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        (
            {"num_hidden_layers": 1},
            "diagonal linear RNN (DLR) for feature extraction. It has 1 layer of width 3 and 5 poles per kernel,",
        ),
        (
            {"kernel_parameters": {"kernel_type": "dss"}},
            "diagonal state space (DSS) for feature extraction. It has 2 layers",
        ),
        (
            {"kernel_parameters": {"kernel_type": "sgconv"}},
            "long convolution (SGConv) for feature extraction. It has 2 layers of width 3, ",
        ),
        (
            {"layer_types": ["dlr", "full_attention"], "hidden_size": 8},
            "hybrid of diagonal linear RNN (DLR) and transformer for feature extraction. It has 2 layers of width 8 "
            "and 5 poles per kernel,",
        ),
        (
            {"layer_types": ["full_attention"] * 2, "hidden_size": 8},
            "transformer for feature extraction. It has 2 layers of width 8, ",
        ),
        ({"vocab_size": None, "input_size": 1}, "and reads 1 real value per step."),
    ],
    ids=["one layer", "DSS", "SGConv", "hybrid", "attention", "one value"],
)
def test_summary_names_the_layers(fields: dict[str, Any], words: str, tmp_path: Path):
    """The first sentences name the kinds of layers, and the poles if there are any."""
    folder = folder_of(DLRModel, tmp_path / "model", **fields)
    write_card(folder, CardOptions(picture=False))
    assert words in (folder / "README.md").read_text(encoding="utf-8")


@pytest.mark.parametrize("auto_class", AUTO_CLASSES)
def test_python_of_every_head_runs(auto_class: str, tmp_path: Path):
    """The code without a pipeline runs, and the front-matter has an example for the pipeline."""
    folder = tmp_path / "model"
    write_tiny(AUTO_CLASSES[auto_class].__name__, folder)
    card = ModelCard.load(folder / "README.md")
    task = SAMPLES[auto_class].task
    assert card.data.pipeline_tag == task.name
    assert (card.data.get("widget") is not None) == (task.kind == "text" and task.runs)
    assert "trained from scratch" not in card.text
    block = next(
        block
        for block in re.findall(r"```python\n(.*?)```", card.text, flags=re.DOTALL)
        if f"import {auto_class}" in block
    )
    names: dict[str, Any] = {}
    exec(block.replace("your-name/model", str(folder)), names)  # noqa: S102 - it is what a reader does
    assert torch.isfinite(names["outputs"][0]).all()


def test_data_sets_of_the_hub_are_linked(tmp_path: Path):
    """The front-matter names a data set only if its name has the form owner/name."""
    folder = folder_of(DLRForSequenceClassification, tmp_path / "news", RESULTS)
    write_card(folder, CardOptions(picture=False, dataset="me/news"))
    assert ModelCard.load(folder / "README.md").data.datasets == ["me/news"]
    write_card(folder, CardOptions(picture=False, dataset="my own news"))
    assert ModelCard.load(folder / "README.md").data.datasets is None


@pytest.mark.parametrize(
    ("results", "message"),
    [
        ([1], "must hold a mapping, got a list"),
        ({"metrics": [0.5]}, "metrics must be a dict, got a list"),
        ({"recipe": "bbc-news"}, "recipe must be a dict, got a str"),
        ({"log_history": {}}, "log_history .*list.*dict"),
        ({"versions": None}, "versions must be a dict, got a NoneType"),
    ],
    ids=["list", "metrics", "recipe", "log", "versions"],
)
def test_malformed_results(results: Any, message: str, tmp_path: Path):
    """The error names the entry, and no card is written."""
    folder = folder_of(DLRModel, tmp_path / "model", results)
    with pytest.raises(InputError, match=message):
        write_card(folder, CardOptions(picture=False))
    assert not (folder / "README.md").exists()


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"options": {"pretrained": "dlr-small"}}, "It was trained from the pretrained dlr-small:"),
        ({"options": {"pretrained": "x\n\n# [a](b)"}}, "It was trained from pretrained weights:"),
        ({"options": {"pretrained": None}}, "It was trained from random weights:"),
        ({"recipe": {"start_from": "outputs/masked"}}, "It was trained from pretrained weights:"),
        ({"seed": 0}, "It was trained:"),
    ],
)
def test_what_training_started_from(given: dict[str, Any], said: str, tmp_path: Path):
    """A name is told; what is no name is not written into the card."""
    folder = folder_of(DLRModel, tmp_path / "model", given)
    assert said in write_card(folder, CardOptions(picture=False)).read_text(encoding="utf-8")


def test_texts_of_results_are_no_markdown(tmp_path: Path):
    """Whoever wrote results.json, no text in it begins a line, a link, a tag or a cell of the card."""
    bad = "x`\n\n# Title\n[a](b) <script> | ![c](d)\x1b"
    results = {"command": bad, "seed": bad, "versions": {bad: bad}, "data": {"rows": {bad: 3}}, "metrics": {bad: 0.5}}
    recipe = {"dataset": bad, "training_arguments": {bad: bad}}
    folder = folder_of(DLRForSequenceClassification, tmp_path / "model", results | {"recipe": recipe})
    text = write_card(folder, CardOptions(picture=False)).read_text(encoding="utf-8")
    assert text.count("x # Title a(b) script !c(d)") >= 8
    assert not any(mark in text for mark in ("\n# Title", "](", "<script", "\x1b"))
    assert ModelCard(text).data.model_name == "model"


def test_card_without_a_run(tmp_path: Path):
    """Without results, the card has no scores and no training."""
    folder = folder_of(DLRModel, tmp_path / "bare", bidirectional=False)
    write_card(folder, CardOptions(picture=False))
    text = (folder / "README.md").read_text(encoding="utf-8")
    assert "## Results" not in text
    assert "## Training" not in text
    assert "cannot generate" not in text
    assert ModelCard(text).data.eval_results is None


def test_bad_input(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]):
    """A folder without a model, malformed results or a malformed name is one error, and no card is written."""
    assert main(["card", str(tmp_path)]) == 2
    folder = folder_of(DLRModel, tmp_path / "model")
    (folder / "results.json").write_text("{", encoding="utf-8")
    with pytest.raises(InputError, match="not valid JSON"):
        write_card(folder)
    for wrong in ({"recipe": {"training_arguments": 5}}, {"data": {"rows": 5}}, {"metrics": {"b_95": ["x", 2]}}):
        (folder / "results.json").write_text(json.dumps(wrong), encoding="utf-8")
        with pytest.raises(InputError, match=r"results.json holds an entry of another form"):
            write_card(folder, CardOptions(picture=False))
    (folder / "results.json").unlink()
    with pytest.raises(InputError, match="is not a repository id"):
        write_card(folder, CardOptions(repo_id='bad id")\nimport os'))
    assert not (folder / "README.md").exists()


def test_without_matplotlib_the_card_has_no_picture(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
):
    """The card is written without it, and a warning names the extra to install."""
    folder = folder_of(DLRModel, tmp_path / "model")
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    assert main(["card", str(folder)]) == 0
    assert "pip install 'modeling-dlr[figures]'" in caplog.text
    assert "kernels.png" not in (folder / "README.md").read_text(encoding="utf-8")
    assert not (folder / "kernels.png").exists()


def test_files_of_a_run_are_ignored(tmp_path: Path):
    """A large log and a link to a checkpoint are not read."""
    folder = folder_of(DLRModel, tmp_path / "model")
    with (folder / "train.log").open("wb") as log:
        log.truncate(2**30)
    (folder / "latest").symlink_to(".")
    write_card(folder, CardOptions(picture=False))
    assert (folder / "README.md").is_file()


def test_scores_of_this_library_are_no_baselines():
    table = MetricTable({"accuracy": 0.9, "accuracy_balanced": 0.5, "accuracy_batch_mean": 0.88, "accuracy_tfidf": 0.8})
    assert table.scores() == {"accuracy": 0.9, "accuracy_balanced": 0.5, "accuracy_batch_mean": 0.88}
    assert table.baselines("accuracy") == {"tfidf": 0.8}


def test_scores_are_those_of_the_weights(tmp_path: Path):
    """The scores are of the best step if its weights were loaded, for each data set; none without an evaluation."""
    log = [{"step": step, f"eval_{name}_loss": step / 10} for step in (2, 4, 6) for name in ("seen", "unseen")]
    log.append({"step": 6, "train_runtime": 1.0})
    state = TrainerState(log_history=log, global_step=6, best_global_step=2)
    best, last = (
        TrainingArguments(str(tmp_path), load_best_model_at_end=load, eval_strategy="steps", use_cpu=True)
        for load in (True, False)
    )
    assert scores_of_the_weights(best, state) == {"seen_loss": 0.2, "unseen_loss": 0.2}
    assert scores_of_the_weights(last, state) == {"seen_loss": 0.6, "unseen_loss": 0.6}
    state.global_step = 7
    assert scores_of_the_weights(last, state) == {}


def test_callback_writes_the_card(tmp_path: Path):
    """A stock Trainer writes model, tokenizer, and a card with its log and its last evaluation."""
    tokenizer = byte_tokenizer()
    rows = [{**tokenizer(text), "labels": i} for i, text in enumerate(["good", "bad"])] * 4
    model = DLRForSequenceClassification(DLRConfig(hidden_size=3, num_hidden_layers=1, state_size=5, pad_token_id=0))
    arguments = TrainingArguments(
        str(tmp_path / "run"),
        max_steps=4,
        eval_strategy="steps",
        eval_steps=2,
        save_strategy="no",
        use_cpu=True,
        report_to="none",
        logging_steps=2,
        learning_rate=0.004,
        disable_tqdm=True,
    )
    card = CardCallback(CardOptions(dataset="two words", picture=False), baselines={"accuracy_chance": 0.5})
    trainer = Trainer(
        model,
        arguments,
        train_dataset=Dataset.from_list(rows),
        eval_dataset=Dataset.from_list(rows),
        processing_class=tokenizer,
        compute_metrics=lambda prediction: {"accuracy": float((prediction[0].argmax(-1) == prediction[1]).mean())},
        callbacks=[card],
    )
    trainer.train()
    first = (tmp_path / "run" / "README.md").read_text(encoding="utf-8")
    assert {"config.json", "model.safetensors", "tokenizer.json", "results.json"} <= {
        path.name for path in (tmp_path / "run").iterdir()
    }
    assert "- learning_rate: 0.004" in first
    assert re.search(r"\| Training Loss \| Epoch\s*\| Step \| Validation Loss \| Accuracy \|", first)
    assert ModelCard(first).data.eval_results[0].dataset_name == "two words"
    accuracy = trainer.evaluate()["eval_accuracy"]
    assert f"| accuracy | {accuracy:.4f} | 0.5000 |" in (tmp_path / "run" / "README.md").read_text(encoding="utf-8")
