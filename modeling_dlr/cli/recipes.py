"""`modeling-dlr recipes`: the recipes of the papers and their small twins, listed and run."""

import json
from collections.abc import Sequence
from dataclasses import fields
from itertools import zip_longest
from typing import Any

import typer

from modeling_dlr.finetuning.stopping import command_line
from modeling_dlr.presets import preset_folder, preset_names
from modeling_dlr.recipes import KINDS, OF_DATA, OF_TASK, RecipeOptions, run_recipe
from modeling_dlr.tasks import TASKS

from .hub import card_callback

recipes = typer.Typer(invoke_without_command=True, add_completion=False)


@recipes.callback()
def list_recipes(context: typer.Context) -> None:
    """List the recipes of the papers and their small twins; `run NAME` trains one."""
    if context.invoked_subcommand is None:
        width = max(map(len, preset_names("recipes")))
        for name in preset_names("recipes"):
            typer.echo(f"{name:{width}}  {describe(name)}")


@recipes.command(
    add_help_option=False,
    context_settings={"allow_extra_args": True, "allow_interspersed_args": False, "ignore_unknown_options": True},
)
def run(context: typer.Context) -> None:
    """Train a recipe: `run NAME`; `run NAME --help` shows its options."""
    main(context.args)


def main(arguments: Sequence[str]) -> dict[str, float]:
    """Run a recipe by its name and options, print the metrics and return them; or print its help, and return none.

    Raises:
        SystemExit: with one line, for a mistake of the user or a stop.
    """
    if not arguments or arguments[0] in ("--help", "-h"):
        names = ", ".join(preset_names("recipes"))
        typer.echo(f"Usage: modeling-dlr recipes run NAME [OPTIONS]\n\nThe recipes are {names}.")
        return {}
    name, *options = arguments
    with command_line("modeling-dlr recipes"):
        if "--help" in options or "-h" in options:
            typer.echo(help_of(name))
            return {}
        metrics = run_recipe(name, options, card_callback)
    for metric, value in metrics.items():
        typer.echo(f"{metric} {value:.4f}")
    return metrics


def describe(name: str) -> str:
    """One line on a recipe: its data, its model and how long it trains."""
    config, training = _written(name)
    kernel = config.get("kernel_parameters", {}).get("kernel_type", "dlr")
    kind = "attention" if "dlr" not in str(config.get("layer_types", "dlr")) else kernel
    steps = training["training_arguments"].get("max_steps", 0)
    epochs = training["training_arguments"].get("num_train_epochs")
    length = f"{steps:,} steps" if steps > 0 else f"{epochs} epochs"
    data = training.get("dataset") or training.get("data") or f"task {training.get('task')}"
    layers = config.get("num_hidden_layers", 1)
    sizes = f"{layers} layer{'s' if layers > 1 else ''} of {config.get('hidden_size')} channels"
    return f"{data}: {kind}, {sizes}, {length}"


def help_of(name: str) -> str:
    """The options of a recipe with the values that it gives them.

    Raises:
        ValueError: for an unknown recipe.
    """
    config, training = _written(name)
    others = OF_TASK if "data" in training else OF_DATA
    kind = "data_options" if "data" in training else "task_options"
    source = KINDS[training["data"]] if "data" in training else TASKS[training["task"]]
    lines = [
        f"Usage: modeling-dlr recipes run {name} [OPTIONS]",
        "",
        f"{describe(name)}.",
        "",
        "Options of recipes:",
        *(
            f"  --{each.name:20} {each.metadata['help']}{_value(training.get(each.name))}"
            for each in fields(RecipeOptions)
            if each.name not in others
        ),
        "",
        f"Names for --{kind}: {_names(source, training.get(kind, {}))}.",
        f"Names for --model_options, fields of DLRConfig, such as: {_pairs(config)}.",
        "",
        "Options of TrainingArguments that the recipe sets (all others are options, too):",
        *_in_two_columns(training["training_arguments"] | {"output_dir": f"outputs/{name}"}),
    ]
    return "\n".join(lines)


def _in_two_columns(options: dict[str, Any]) -> list[str]:
    cells = [f"--{key} {value}" for key, value in options.items()]
    return [f"  {left:45} {right}".rstrip() for left, right in zip_longest(cells[::2], cells[1::2], fillvalue="")]


def _written(name: str) -> tuple[dict[str, Any], dict[str, Any]]:
    folder = preset_folder("recipes", name)
    config, training = (json.loads((folder / file).read_text(encoding="utf-8")) for file in FILES)
    return config, training


FILES = ("config.json", "training.json")


def _value(value: Any) -> str:
    return "" if value is None else f" [{json.dumps(value)}]"


def _names(kind: Any, given: dict[str, Any]) -> str:
    """The fields of a data class, with the values that the recipe gives or their defaults."""
    defaults = {each.name: each.default for each in fields(kind)}
    shown = {name: given.get(name, default) for name, default in defaults.items()}
    return ", ".join(
        f"{name}={value}" if isinstance(value, (int, float, str)) else name for name, value in shown.items()
    )


def _pairs(config: dict[str, Any]) -> str:
    plain = {name: value for name, value in config.items() if isinstance(value, (int, float))}
    return ", ".join(f"{name}={json.dumps(value)}" for name, value in list(plain.items())[:6])
