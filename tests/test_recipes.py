"""`modeling-dlr recipes`: every recipe runs, what the command line says holds, and mistakes are named."""

import json
import re
import shutil
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file
from test_resuming import write_checkpoint
from transformers import AutoModelForTokenClassification
from typer.testing import CliRunner

from hub_upload.card import CardOptions, write_card
from hub_upload.inspect_folder import INSPECTIONS
from modeling_dlr.cli import app
from modeling_dlr.cli.recipes import main
from modeling_dlr.presets import preset_folder, preset_names
from modeling_dlr.recipes import running as train

RECIPES = preset_names("recipes")
RECIPES_ON_DATA = ["lra-imdb-dss", "lra-aan-dss", "lra-cifar-dss", "speech-commands-dss"]


@pytest.fixture(autouse=True)
def _cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Data sets are cached where the test ends."""
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "cache")


def smoke(recipe: str, folder: Path, *arguments: str) -> dict[str, float]:
    fixed = ["--smoke", "--output_dir", str(folder), "--disable_tqdm", "True", "--dataloader_pin_memory", "False"]
    return main([recipe, *fixed, *arguments])


@pytest.mark.slow
@pytest.mark.parametrize("recipe", RECIPES)
def test_recipe_runs(recipe: str, tmp_path: Path):
    """Two steps of a tiny model; a model folder and its metrics are written."""
    metrics = smoke(recipe, tmp_path / "out")
    written = json.loads((tmp_path / "out" / "eval_results.json").read_text(encoding="utf-8"))
    assert written["eval_loss"] == metrics["eval_loss"]
    assert (tmp_path / "out" / "model.safetensors").is_file()


def test_smoke_saves_resumes_and_loads(tmp_path: Path):
    """The folder loads again, and training goes on from its checkpoint."""
    metrics = smoke("twin-atomic-dlr", tmp_path / "out", "--task", "masked_select", "--task_options", "num_marked=4")
    assert {"eval_r2", "eval_r2_batch_mean", "eval_loss"} <= metrics.keys()
    model = AutoModelForTokenClassification.from_pretrained(tmp_path / "out")
    assert (model.config.input_size, model.config.num_labels) == (4, 1)
    again = smoke(
        "twin-atomic-dlr", tmp_path / "out", "--task", "masked_select", "--task_options", "num_marked=4",
        "--max_steps", "4", "--resume_from_checkpoint", str(tmp_path / "out" / "checkpoint-2"),
    )  # fmt: skip
    state = json.loads((tmp_path / "out" / "trainer_state.json").read_text(encoding="utf-8"))
    assert state["global_step"] == 4
    assert again["eval_loss"] != metrics["eval_loss"]


@pytest.mark.slow
@pytest.mark.parametrize("recipe", ["twin-listops-subtrees-dlr", "twin-atomic-dlr", *RECIPES_ON_DATA])
def test_self_pretraining(recipe: str, tmp_path: Path):
    """Hidden inputs are predicted in one run, and the next one starts from its layers."""
    masked = smoke(recipe, tmp_path / "masked", "--objective", "masked")
    assert {"eval_loss"} < masked.keys()
    metrics = smoke(
        recipe,
        tmp_path / "out",
        "--start_from",
        str(tmp_path / "masked"),
        "--learning_rate",
        "0",
        "--state_learning_rate",
        "0",
    )
    assert metrics["eval_loss"] > 0
    before, after = (load_file(tmp_path / name / "model.safetensors") for name in ("masked", "out"))
    # Batch norms count on, whatever the rate.
    layers = {name: value for name, value in before.items() if name.startswith("model.layers") and "norm" not in name}
    assert all((after[name] == value).all() for name, value in layers.items())


@pytest.mark.parametrize(("drop", "scored"), [("False", 3), ("True", 2)])
def test_dropped_batches(drop: str, scored: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Why no recipe drops the last batch: the Trainer drops that of an evaluation, too."""
    prepare = train.prepare

    def prepare_three(run: train.Run) -> train.Prepared:
        run.options.num_validation = 3
        return prepare(run)

    monkeypatch.setattr(train, "prepare", prepare_three)
    monkeypatch.setattr(train, "scores", lambda *given: lambda prediction: {"count": len(prediction.label_ids)})
    assert smoke("twin-atomic-dlr", tmp_path / "out", "--dataloader_drop_last", drop)["eval_count"] == scored


def test_tensorboard(tmp_path: Path):
    smoke("twin-atomic-dlr", tmp_path / "out", "--report_to", "tensorboard")
    assert list((tmp_path / "out").rglob("events.out.tfevents.*"))


def test_trackio(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Losses and scores of training and of its end go to one run, on this machine."""
    monkeypatch.setenv("TRACKIO_DIR", str(tmp_path / "trackio"))
    metrics = smoke("twin-atomic-dlr", tmp_path / "out", "--report_to", "trackio")
    import trackio
    from trackio.sqlite_storage import SQLiteStorage

    trackio.finish()
    assert SQLiteStorage.get_runs("modeling-dlr") == ["twin-atomic-dlr"]
    logs = SQLiteStorage.get_logs("modeling-dlr", "twin-atomic-dlr")
    assert [row["eval/loss"] for row in logs if "eval/loss" in row] == pytest.approx([metrics["eval_loss"]] * 2)
    assert len([row for row in logs if "train/loss" in row]) == 2


# What is said, and where it must be found.
SAID: dict[str, tuple[list[str], Any, Any]] = {
    "training": (["--learning_rate", "0.5"], lambda run: run.training.learning_rate, 0.5),
    "report": (["--report_to", "tensorboard"], lambda run: run.training.report_to, ["tensorboard"]),
    "push": (["--push_to_hub"], lambda run: run.training.push_to_hub, True),
    "push, with dashes": (["--push-to-hub"], lambda run: run.training.push_to_hub, True),
    "model": (["--model_options", "num_hidden_layers=3"], lambda run: run.config.num_hidden_layers, 3),
    "kernel": (
        ["--model_options", "kernel_parameters.read_out=prod"],
        lambda run: run.config.kernel_parameters["read_out"],
        "prod",
    ),
    "task": (["--task", "mips"], lambda run: (run.source.name, run.config.input_size), ("mips", 14)),
    "its options": (["--task", "mips", "--task_options", "dim=2"], lambda run: run.config.input_size, 8),
    "length": (["--task_options", "length=64"], lambda run: run.source.task.length, 64),
    "length is kept": (["--task", "sort"], lambda run: run.source.task.length, 512),
    "rates": (["--state_learning_rate", "1e-4"], lambda run: run.options.state_learning_rate, "1e-4"),
    "recipe": ([], lambda run: (run.training.max_steps, run.options.state_learning_rate), (1500, "0.001")),
}  # fmt: skip


@pytest.mark.parametrize("name", SAID)
def test_command_line_holds(name: str, tmp_path: Path):
    """Every field can be said otherwise, and what is not said is the recipe's."""
    arguments, found, expected = SAID[name]
    run = train.read_run("twin-atomic-dlr", ["--output_dir", str(tmp_path), *arguments])
    assert found(run) == expected


def test_last_checkpoint(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    """The newest that is whole is gone on from; those that are not are named, and left."""
    resume = ["--output_dir", str(tmp_path), "--resume_from_checkpoint"]
    write_checkpoint(tmp_path / "checkpoint-2")
    write_checkpoint(tmp_path / "checkpoint-10")
    (tmp_path / "checkpoint-10" / "trainer_state.json").write_text("", encoding="utf-8")
    (tmp_path / "checkpoint-11").mkdir()
    run = train.read_run("twin-atomic-dlr", [*resume, "True"])
    assert run.training.resume_from_checkpoint == str(tmp_path / "checkpoint-2")
    line = capsys.readouterr().err.splitlines()[-1]
    assert re.findall(r"checkpoint-\d+|missing|damaged", line) == [
        "checkpoint-2", "checkpoint-11", "missing", "checkpoint-10", "damaged",
    ]  # fmt: skip
    with pytest.raises(ValueError, match=r"checkpoint-10 .*trainer_state.json"):
        train.read_run("twin-atomic-dlr", [*resume, str(tmp_path / "checkpoint-10")])
    assert train.read_run("twin-atomic-dlr", [*resume, "auto"]).training.resume_from_checkpoint.endswith("checkpoint-2")
    shutil.rmtree(tmp_path / "checkpoint-2")
    assert train.read_run("twin-atomic-dlr", [*resume, "auto"]).training.resume_from_checkpoint is None
    with pytest.raises(ValueError, match=r"checkpoint-11 "):
        train.read_run("twin-atomic-dlr", [*resume, "True"])


# The recipe, its options, and what the message must name.
MISTAKES: dict[str, tuple[str, list[str], list[str]]] = {
    "recipe": ("no-such", [], ["'no-such'", "twin-atomic-dlr"]),
    "recipe, nearly": ("twin-atomic-drl", [], ["'twin-atomic-drl'", "'twin-atomic-dlr'"]),
    "model": ("twin-atomic-dlr", ["--model_options", "hiden_size=3"], ["hiden_size", "'hidden_size'"]),
    "another kind of task": (
        "twin-atomic-dlr",
        ["--task", "listops_subtrees"],
        ["real values", "listops_subtrees", "tokens"],
    ),
    "a data set for a task": ("twin-atomic-dlr", ["--data", "texts"], ["--data", "'texts'"]),
    "a task for a data set": ("lra-imdb-dss", ["--task", "shift"], ["--task", "'shift'"]),
    "processes for data": ("lra-imdb-dss", ["--num_proc", "2"], ["--num_proc", "2"]),
    "the name of a task": ("twin-atomic-dlr", ["--dataset", "a/b"], ["--dataset", "'a/b'"]),
    "no name": ("lra-aan-dss", [], ["--dataset"]),
    "task options of data": ("lra-imdb-dss", ["--task_options", "length=3"], ["--task_options"]),
    "data options of a task": ("twin-atomic-dlr", ["--data_options", "label=a"], ["--data_options"]),
    "no dictionary": ("twin-atomic-dlr", ["--model_options", "hidden_size.x=4"], ["hidden_size.x"]),
    "rate": ("twin-atomic-dlr", ["--state_learning_rate", "abc"], ["--state_learning_rate", "'abc'"]),
    "rates": ("twin-atomic-dlr", ["--state_learning_rate", '{"weights": "a"}'], ["--state_learning_rate", '"a"']),
    "kinds of rates": ("twin-atomic-dlr", ["--state_learning_rate", '{"angel": 1e-4}'], ["'angel'", "'angle'"]),
    "optimizer": ("twin-atomic-dlr", ["--optim", "sgd"], ["adamw_torch"]),
    "seed": ("twin-atomic-dlr", ["--data_seed_of_task", "-1"], ["--data_seed_of_task", "-1"]),
    "processes": ("twin-atomic-dlr", ["--num_proc", "0"], ["--num_proc", "0"]),
    "examples to score": ("lra-imdb-dss", ["--num_validation", "-4"], ["--num_validation", "-4"]),
    "logger": ("twin-atomic-dlr", ["--report_to", "foo"], ["--report_to", "'foo'"]),
    "no checkpoint": ("twin-atomic-dlr", ["--resume_from_checkpoint", "True"], ["--resume_from_checkpoint"]),
    "no such checkpoint": (
        "twin-atomic-dlr",
        ["--resume_from_checkpoint", "nope"],
        ["--resume_from_checkpoint", "nope"],
    ),
    "answers": ("twin-atomic-dlr", ["--answers", "classes"], ["shift", "values", "--answers"]),
    "answers of classes": ("lra-listops-dss", ["--answers", "values"], ["listops", "classes", "values"]),
    "head": ("twin-atomic-dlr", ["--head", "per_sequence"], ["shift", "--head per_step"]),
    "head of one class": ("lra-listops-dss", ["--head", "per_step"], ["listops", "--head per_sequence"]),
    "head of data": ("lra-imdb-dss", ["--head", "per_pair"], ["texts", "--head per_sequence"]),
    "long rows": ("shift-long-sgconv", ["--task_options", "length=32768"], ["16384", "num_scales"]),
    "batch": ("twin-atomic-dlr", ["--per_device_train_batch_size", "0"], ["--per_device_train_batch_size", "0"]),
    "batch to score": ("lra-imdb-dss", ["--per_device_eval_batch_size", "0"], ["--per_device_eval_batch_size", "0"]),
    "epochs": ("lra-imdb-dss", ["--num_train_epochs", "-1"], ["--num_train_epochs", "-1"]),
    "metric": (
        "twin-atomic-dlr",
        ["--metric_for_best_model", "accuracy"],
        ["--metric_for_best_model", "'r2'", "'accuracy'"],
    ),
    "steps": ("twin-atomic-dlr", ["--max_steps", "-1"], ["--max_steps", "-1", "--num_train"]),
    "pair": ("twin-atomic-dlr", ["--task_options", "length"], ["'length'"]),
}


@pytest.mark.parametrize("doublings", [0, 1, 6])
def test_lengths_of_sgconv(doublings: int, tmp_path: Path):
    """A scale more for each doubling, as configuration/README.md has it, up to the longest."""
    said = ["--task_options", f"length={2 ** (14 + doublings)}"]
    said += ["--model_options", f"kernel_parameters.num_scales={3 + doublings}"]
    run = train.read_run("shift-long-sgconv", ["--output_dir", str(tmp_path), *said])
    assert run.source.task.length == run.config.state_size * 2 ** (run.config.kernel_parameters["num_scales"] - 1)


# A recipe whose rows are values, and one of symbols, which need a tokenizer; the metric, and what else the card names.
CARDS: dict[str, tuple[str, list[str]]] = {
    "twin-atomic-dlr": ("r2", ["trained on shift", "4 rows to train, 2 rows to validation", "Seed: 1112"]),
    "twin-listops-subtrees-dlr": ("accuracy", ["trained on listops_subtrees", "pipeline_tag: token-classification"]),
}


@pytest.mark.parametrize("recipe", CARDS)
def test_card(recipe: str, tmp_path: Path):
    """The folder is what a push takes: its card says what was run, on what, and how well, also when it is made anew."""
    metric, named = CARDS[recipe]
    folder = tmp_path / "out"
    metrics = smoke(recipe, folder, "--hub_token", "secret")
    assert [problem for inspect in INSPECTIONS.values() for problem in inspect(folder)] == []
    assert json.loads((folder / "results.json").read_text(encoding="utf-8"))["recipe"]["name"] == recipe
    for card in (folder / "README.md", write_card(folder, CardOptions(picture=False))):
        text = card.read_text(encoding="utf-8")
        assert f"| {metric} | {metrics[f'eval_{metric}']:.4f} |" in text
        assert f"Command: `modeling-dlr recipes run {recipe} --smoke --output_dir out" in text
        assert "secret" not in text
        assert [each for each in named if each not in text] == []


@pytest.mark.parametrize("said", [["--smoke"], ["--smoke=True"], ["--smoke", "true"], ["--smo"]], ids=" ".join)
def test_smoke_however_it_is_said(said: list[str], tmp_path: Path):
    run = train.read_run("twin-atomic-dlr", ["--output_dir", str(tmp_path), *said])
    assert (run.training.max_steps, run.config.hidden_size) == (2, 8)


def test_no_smoke(tmp_path: Path):
    run = train.read_run("twin-atomic-dlr", ["--output_dir", str(tmp_path), "--smoke", "False"])
    assert (run.training.max_steps, run.config.hidden_size) == (1500, 64)


def test_unknown_task(capsys: pytest.CaptureFixture[str]):
    with pytest.raises(SystemExit):
        train.read_run("twin-atomic-dlr", ["--task", "shfit"])
    assert "invalid choice: 'shfit'" in capsys.readouterr().err


@pytest.mark.parametrize("mistake", MISTAKES)
def test_mistakes(mistake: str, tmp_path: Path):
    recipe, arguments, named = MISTAKES[mistake]
    with pytest.raises(ValueError) as refused:  # noqa: PT011 - what it names is compared below
        train.read_run(recipe, ["--output_dir", str(tmp_path), *arguments])
    assert [word for word in named if word not in str(refused.value)] == []


def test_a_mistake_ends_in_its_sentence():
    """What a terminal shows is no traceback."""
    with pytest.raises(SystemExit) as ended:
        main(["twin-atomic-dlr", "--max_steps", "0"])
    assert str(ended.value).startswith("modeling-dlr recipes: ")
    assert "--max_steps" in str(ended.value)
    with pytest.raises(SystemExit, match=r"^modeling-dlr recipes: .*'hidden_size'.*-8$"):
        main(["twin-atomic-dlr", "--model_options", "hidden_size=-8"])
    with pytest.raises(SystemExit, match=r"^modeling-dlr recipes: .*'/nope'"):
        main(["lra-cifar-dss", "--dataset", "/nope"])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"num_validatoin": 3}, "'num_validatoin'.* 'num_validation'"),
        ({"training_arguments": {"max_stepps": 3}}, "'max_stepps'.* 'max_steps'"),
        ({"task_options": {"lenght": 3}}, "'length'"),
        ({"data": "texts"}, "training.json"),
    ],
    ids=["key", "training argument", "task option", "task and data"],
)
def test_unknown_keys_of_a_recipe(
    change: dict[str, Any], message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """A recipe of one's own says what it misspells."""
    fields, written = train.load_recipe("twin-atomic-dlr")
    monkeypatch.setattr(train, "load_recipe", lambda name: (fields, written | change))
    with pytest.raises(ValueError, match=message):
        train.read_run("twin-atomic-dlr", ["--output_dir", str(tmp_path)])


def test_best_checkpoint(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """What is saved is the model that scored best, not the last."""
    losses = iter([1.0, 0.25, 2.0, 2.0])
    evaluate = train.DistributedTrainer.evaluate

    def scripted(self: Any, *arguments: Any, **options: Any) -> dict[str, float]:
        metrics = evaluate(self, *arguments, **options) | {"eval_loss": next(losses)}
        weights.append(self.model.classifier.weight.detach().clone())
        return metrics

    weights: list[Any] = []
    monkeypatch.setattr(train.DistributedTrainer, "evaluate", scripted)
    smoke("twin-atomic-dlr", tmp_path / "out", "--max_steps", "3", "--eval_steps", "1", "--save_steps", "1")
    saved = AutoModelForTokenClassification.from_pretrained(tmp_path / "out").classifier.weight
    assert [bool((saved == each).all()) for each in weights] == [False, True, False, True]


def test_listed(capsys: pytest.CaptureFixture[str]):
    """One line for each recipe that can be run."""
    result = CliRunner().invoke(app, ["recipes"])
    assert [line.split()[0] for line in result.output.splitlines()] == RECIPES
    assert max(map(len, result.output.splitlines())) < 140


@pytest.mark.parametrize("recipe", RECIPES)
def test_help(recipe: str):
    """A screen of what can be said, with the values of the recipe."""
    result = CliRunner().invoke(app, ["recipes", "run", recipe, "--help"])
    assert result.exit_code == 0
    assert len(result.output.splitlines()) <= 40
    written = json.loads((preset_folder("recipes", recipe) / "training.json").read_text(encoding="utf-8"))
    assert {f"--{name}" for name in written["training_arguments"]} <= set(result.output.split())
    options = written.get("task_options", written.get("data_options", {}))
    assert all(name in result.output for name in options)


def test_help_of_another_name():
    result = CliRunner().invoke(app, ["recipes", "run", "twin-atomic-drl", "--help"])
    assert result.exit_code == 1
    assert "did you mean 'twin-atomic-dlr'" in str(result.exception)
    assert "twin-atomic-dlr" in CliRunner().invoke(app, ["recipes", "run"]).output
