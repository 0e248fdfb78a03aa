"""Write the model card of a folder: description, scores with baselines, usage and limits."""

import io
import json
import logging
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import transformers
from huggingface_hub import EvalResult, ModelCard, ModelCardData
from transformers.modelcard import TrainingSummary, parse_log_history

from modeling_dlr.figures import kernel_figure
from modeling_dlr.markdown import markdown_table
from modeling_dlr.results import RESULTS

from .bounded_files import read_json
from .errors import InputError, printable, reason_of
from .folders import write_whole
from .model_folder import check_model_folder, check_weights
from .repo_ids import check_repo_id, example_repo_id
from .samples import Task, auto_class_of, task_of, with_mask

logger = logging.getLogger(__name__)

TEMPLATE = Path(__file__).with_name("card_template.md")
CARD, PICTURE = "README.md", "kernels.png"
TAGS = ["dlr", "state-space-model", "linear-rnn", "long-sequences"]

# Our metrics that have another name on the Hub.
_HUB_METRICS = {"f1_macro": "f1", "accuracy_balanced": "accuracy"}
# Endings of score names that do not mark a baseline.
_SCORES = ("_macro", "_balanced", "_batch_mean")

# Descriptions of layers, by layer type, or by kernel type for layers with a kernel.
_KINDS = {
    "dlr": "diagonal linear RNN (DLR)",
    "dss": "diagonal state space (DSS)",
    "s4d": "diagonal state space (S4D)",
    "sgconv": "long convolution (SGConv)",
    "full_attention": "transformer",
    "hyena": "StripedHyena",
    "local_attention": "transformer with local attention",
}
_WITH_POLES = {"dlr", "dss", "s4d", "hyena"}
# Purposes of tasks whose name does not explain them.
_PURPOSES = {"fill-mask": "filling in hidden tokens"}
# Code, links, pictures, tags and cells of tables.
_MARKS = re.compile(r"[`<>|\[\]]")
# A log has a line for every step that is logged.
_MOST_RESULTS = 2**26
# Required types of the entries of results.json.
_ENTRIES: dict[str, type] = {
    "data": dict,
    "hyperparameters": dict,
    "log_history": list,
    "metrics": dict,
    "options": dict,
    "recipe": dict,
    "versions": dict,
}


@dataclass
class CardOptions:
    """Content of a card that the files of the folder do not give.

    Args:
        repo_id: repository name in the usage examples; by default "your-name/FOLDER".
        title: title of the card; by default the folder's name.
        license: license of the weights, by its name on the Hub.
        language: languages of the texts, as ISO 639 codes.
        dataset: name of the data, or of a Hub data set; by default from results.json.
        limits: sentences about limits, before those of every model.
        facts: sentences before those about the training.
        picture: draw the kernels, if matplotlib is installed.
    """

    repo_id: str | None = None
    title: str | None = None
    license: str = "apache-2.0"
    language: list[str] = field(default_factory=list)
    dataset: str | None = None
    limits: list[str] = field(default_factory=list)
    facts: list[str] = field(default_factory=list)
    picture: bool = True


def write_card(folder: Path, options: CardOptions | None = None) -> Path:
    """Write README.md, and the picture of the kernels, into a model folder.

    `modeling-dlr train`, a recipe or `CardCallback` writes results.json, which records the run: "metrics", "recipe",
    "data", "command", "log_history".

    Raises:
        InputError: if the folder has no model, results.json cannot be read, or repo_id is not a repository id.
    """
    options = options or CardOptions()
    if options.repo_id is not None:
        check_repo_id(options.repo_id)
    check_model_folder(folder, loaded=True)
    check_weights(folder)
    results = _read_results(folder)
    load = getattr(transformers, auto_class_of(folder)).from_pretrained
    try:
        model: Any = load(folder, trust_remote_code=False, use_safetensors=True)
    except Exception as error:
        raise InputError(f"The model in {folder} cannot be loaded: {reason_of(error)}") from error
    picture = _draw(model) if options.picture else None
    try:
        card = _render(folder, model, results, options, None if picture is None else PICTURE)
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        if not results:
            raise
        raise InputError(
            f"{folder / RESULTS} holds an entry of another form than a card needs ({reason_of(error)}): correct or "
            "remove it."
        ) from error
    write_whole(folder, ({} if picture is None else {PICTURE: picture}) | {CARD: card.encode()})
    return folder / CARD


def _read_results(folder: Path) -> dict[str, Any]:
    if not (folder / RESULTS).is_file():
        return {}
    results = read_json(folder / RESULTS, _MOST_RESULTS)
    if not isinstance(results, dict):
        raise InputError(f"{folder / RESULTS} must hold a mapping, got a {type(results).__name__}.")
    for name, kind in _ENTRIES.items():
        given = results.get(name, kind())
        if not isinstance(given, kind):
            found = type(given).__name__
            raise InputError(
                f"{folder / RESULTS}: {name} must be a {kind.__name__}, got a {found}. Correct or remove it."
            )
    return _plain(results)


def _plain(value: Any) -> Any:
    """The value with its texts, and those of its keys, in one line and without marks of Markdown and HTML."""
    if isinstance(value, dict):
        return {_plain(key): _plain(each) for key, each in value.items()}
    if isinstance(value, list):
        return [_plain(each) for each in value]
    return printable(" ".join(_MARKS.sub("", value).split())) if isinstance(value, str) else value


def _draw(model: Any) -> bytes | None:
    """The picture of the first DLR layer as PNG; None if the model has no such layer, or without matplotlib."""
    drawn = io.BytesIO()
    try:
        kernel_figure(model).savefig(drawn, format="png", dpi=60, metadata={"Software": None})
    except ImportError as error:
        logger.warning("The card has no picture of the kernels: %s", error)
        return None
    except TypeError:
        return None
    return drawn.getvalue()


def _render(folder: Path, model: Any, results: dict[str, Any], options: CardOptions, picture: str | None) -> str:
    task, auto_class = task_of(folder), auto_class_of(folder)
    recipe = results.get("recipe", {})
    title = options.title or printable(folder.resolve().name)
    dataset = options.dataset or recipe.get("dataset")
    table = MetricTable(results.get("metrics", {}))
    data = ModelCardData(
        language=options.language or None,
        license=options.license,
        library_name="transformers",
        tags=list(TAGS),
        pipeline_tag=None if task is None else task.name,
        datasets=[dataset] if dataset and "/" in dataset else None,  # the Hub links to this data set
        metrics=table.hub_names() or None,
        model_name=title,
        eval_results=_eval_results(task, dataset, table) or None,
        widget=_widget(folder, task),
    )
    code = _code(folder, model.config, task)
    card = ModelCard.from_template(
        data,
        template_path=str(TEMPLATE),
        title=title,
        summary=_summary(model, task, dataset),
        results=table.render(),
        interval=table.intervals(),
        task=None if task is None or not task.runs else task.name,
        reads_text=task is not None and task.kind == "text",
        imports_numpy=task is not None and task.kind == "audio",
        example=None if task is None else shown_example(folder, task),
        code=code,
        imports_torch="torch." in code,
        repo_id=options.repo_id or example_repo_id(folder),
        auto_class=auto_class,
        model_class=type(model).__name__,
        picture=picture,
        training=_training(title, results, options.facts),
        limits=[*options.limits, *_limits(model.config, dataset, results)],
    )
    return re.sub(r"\n{3,}", "\n\n", str(card)).rstrip("\n") + "\n"


class MetricTable:
    """Metrics with their baselines: "accuracy_tfidf" is a baseline of "accuracy".

    An entry that ends in "_95" is the confidence interval of another entry.
    """

    def __init__(self, metrics: dict[str, Any]):
        self.numbers = {name: value for name, value in metrics.items() if isinstance(value, int | float)}
        self.pairs = {
            name: value
            for name, value in metrics.items()
            if isinstance(value, list) and len(value) == 2 and name.endswith("_95")
        }
        self.own = [name for name in self.numbers if not self._parent(name)]

    def _parent(self, name: str) -> str | None:
        return (
            None
            if name.endswith(_SCORES)
            else next((other for other in self.numbers if name.startswith(f"{other}_")), None)
        )

    def baselines(self, metric: str) -> dict[str, float]:
        """The baselines of a metric, by name."""
        names = [name for name in self.numbers if self._parent(name) == metric]
        return {name.removeprefix(f"{metric}_").replace("_", " "): self.numbers[name] for name in names}

    def scores(self) -> dict[str, float]:
        """The metrics: numbers that are not counts."""
        return {name: self.numbers[name] for name in self.own if isinstance(self.numbers[name], float)}

    def hub_names(self) -> list[str]:
        """The metrics' names on the Hub, each once."""
        return list(dict.fromkeys(_HUB_METRICS.get(name, name) for name in self.scores()))

    def render(self) -> str:
        """Render a Markdown table: one row per metric, one column for the model and each baseline; may be empty."""
        columns = list(dict.fromkeys(name for metric in self.own for name in self.baselines(metric)))
        rows = []
        for metric in self.own:
            baselines = self.baselines(metric)
            cells = [_number(self.numbers[metric]), *(_number(baselines.get(name)) for name in columns)]
            rows.append([metric.replace("_", " "), *cells])
        return markdown_table(["", "this model", *columns], rows) if rows else ""

    def intervals(self) -> str:
        """Render one sentence per interval."""
        return " ".join(
            f"95 % interval of the {name.removesuffix('_95')}: {_number(low)} … {_number(high)}."
            for name, (low, high) in self.pairs.items()
        )


def _number(value: float | None) -> str:
    if value is None:
        return ""
    return f"{value:,}" if isinstance(value, int) else f"{value:.4f}"


def _eval_results(task: Task | None, dataset: str | None, table: MetricTable) -> list[EvalResult]:
    if task is None or dataset is None:
        return []
    return [
        EvalResult(
            task_type=task.name,
            dataset_type=dataset,
            dataset_name=dataset,
            metric_type=_HUB_METRICS.get(name, name),
            metric_name=name.replace("_", " "),
            metric_value=round(value, 4),
        )
        for name, value in table.scores().items()
    ]


def shown_example(folder: Path, task: Task) -> str:
    """The example of the task as Python code."""
    if task.kind != "text":
        return str(task.shown)
    shown = task.shown if isinstance(task.shown, list) else with_mask(task.shown, folder)
    return json.dumps(shown, ensure_ascii=False)


def _widget(folder: Path, task: Task | None) -> list[dict[str, str]] | None:
    """The example for the Hub's widget: a text, if the pipeline reads one."""
    if task is None or task.kind != "text" or not task.runs or isinstance(task.shown, list):
        return None
    return [{"text": with_mask(task.shown, folder)}]


def _code(folder: Path, config: Any, task: Task | None) -> str:
    """The code in the card that calls the model."""
    if task is None:
        return f"outputs = model(input_values=torch.zeros(1, 100, {config.input_size}))"
    return task.code.format(example=shown_example(folder, task), input_size=getattr(config, "input_size", None))


def _summary(model: Any, task: Task | None, dataset: str | None) -> str:
    config: Any = model.config
    kernel_type = getattr(config, "kernel_parameters", {}).get("kernel_type", "dlr")
    direction = "bidirectional" if getattr(config, "bidirectional", False) else "causal"
    kinds = dict.fromkeys(kernel_type if kind == "dlr" else kind for kind in config.layer_types)
    names = [_KINDS[kind] for kind in kinds]
    what = names[0] if len(names) == 1 else f"hybrid of {' and '.join(names)}"
    purpose = "" if task is None else f" for {_PURPOSES.get(task.name, task.name.replace('-', ' '))}"
    trained = f", trained on {dataset}" if dataset else ""
    poles = f" and {_count(config.state_size, 'pole')} per kernel" if kinds.keys() & _WITH_POLES else ""
    reads = (
        f"a vocabulary of {config.vocab_size:,} tokens"
        if config.vocab_size
        else f"{_count(config.input_size, 'real value')} per step"
    )
    return (
        f"A {direction} {what}{purpose}{trained}. It has "
        f"{_count(config.num_hidden_layers, 'layer')} of width {config.hidden_size}{poles}, "
        f"{_count(model.num_parameters(), 'parameter')} in all, and reads {reads}."
    )


def _count(number: int, noun: str) -> str:
    return f"{number:,} {noun}{'' if number == 1 else 's'}"


def _training(title: str, results: dict[str, Any], facts: list[str]) -> str:
    """Render the training section: recipe, data, machine, and transformers' summary of the log."""
    recipe = results.get("recipe", {})
    facts = [*(f"* {fact}" for fact in facts), *_facts(results)]
    hyperparameters = results.get("hyperparameters") or {
        **recipe.get("training_arguments", {}),
        **{name: recipe[name] for name in ("state_learning_rate", "max_length", "vocab_size") if name in recipe},
    }
    if not facts and not hyperparameters:
        return ""
    _, lines, _ = parse_log_history(results.get("log_history") or [])
    versions = results.get("versions", {})
    summary = TrainingSummary(model_name=title, eval_lines=lines or None, hyperparameters=hyperparameters, source=None)
    _, _, procedure = summary.to_model_card().partition("## Training procedure\n\n")
    procedure, _, _ = procedure.partition("### Framework versions")
    listed = ", ".join(f"{name} {version}" for name, version in versions.items())
    return "\n\n".join(part.strip() for part in ("\n".join(facts), procedure, listed and f"With {listed}.") if part)


def _facts(results: dict[str, Any]) -> Iterator[str]:
    """Yield the recorded facts of the run as Markdown list items."""
    rows = results.get("data", {}).get("rows", {})
    if rows:
        yield "* Data: " + ", ".join(f"{count:,} rows to {part}" for part, count in rows.items()) + "."
    if "command" in results:
        yield f"* Command: `{results['command']}`."
    if "seed" in results:
        yield f"* Seed: {results['seed']}."
    if "training_seconds" in results:
        yield f"* Training took {results['training_seconds']:,} s."


def _limits(config: Any, dataset: str | None, results: dict[str, Any]) -> Iterator[str]:
    """Yield the limits of every model of this kind."""
    if results or dataset:
        where = f" on {dataset}" if dataset else ""
        yield f"It was trained{where}{_start(results)}: away from such data its answers mean little."
    if getattr(config, "bidirectional", False):
        yield "It reads in both directions, so it needs the whole sequence and cannot generate."
    if getattr(config, "kernel_parameters", {}).get("version") == "softmax":
        yield "Its kernels depend on the length of the sequence, so padding changes its answers."
    yield "It has not been examined for bias, and nothing that matters should be decided by it alone."


def _start(results: dict[str, Any]) -> str:
    """What the training of a run started from, where that is recorded."""
    options = results.get("options", {})
    given = options.get("pretrained") or results.get("recipe", {}).get("start_from")
    if isinstance(given, str) and re.fullmatch(r"[\w.-]{1,96}", given):
        return f" from the pretrained {given}"
    return " from pretrained weights" if given else " from random weights" if "pretrained" in options else ""
