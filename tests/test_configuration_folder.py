"""The folder configuration/ loads, builds and runs, and its README says what is in it."""

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from accelerate.commands.config.config_args import load_config_from_file
from transformers import AutoConfig, AutoModel, PreTrainedConfig, TrainingArguments

from modeling_dlr.blocks_dlr import DLRBlock
from modeling_dlr.configuration_docs import FOLDER, fields_markdown, json_schema
from modeling_dlr.kernel_parameters_dlr import KERNEL_FIELDS
from modeling_dlr.training import parameter_groups

MODELS = sorted(path.parent for path in FOLDER.glob("models/*/config.json"))
RECIPES = sorted(path.parent for path in FOLDER.glob("recipes/*/config.json"))
LAUNCHES = sorted(FOLDER.glob("accelerate/*.yaml"))
README = (FOLDER / "README.md").read_text(encoding="utf-8")

# Above this, a model is built and run on the meta device: shapes only.
LARGE = 1_000_000


def by_folder(folders: list[Path]) -> Any:
    return pytest.mark.parametrize("folder", folders, ids=lambda folder: folder.name)


def read_training(folder: Path) -> dict[str, Any]:
    return json.loads((folder / "training.json").read_text(encoding="utf-8"))


def recipe_config(folder: Path) -> PreTrainedConfig:
    """The configuration of a recipe, with the vocabulary of its tokenizer if it trains one."""
    vocabulary = {key: value for key, value in read_training(folder).items() if key == "vocab_size"}
    return AutoConfig.from_pretrained(folder, **vocabulary)


def build(config: PreTrainedConfig, device: str = "meta") -> torch.nn.Module:
    with torch.device(device):
        return AutoModel.from_config(config).eval()


def count(model: torch.nn.Module) -> int:
    return sum(parameter.numel() for parameter in model.parameters())


def table_row(name: str) -> str:
    """The row of a table of the README that begins with `name`."""
    row = re.search(rf"^\| `{re.escape(name)}` .*$", README, flags=re.MULTILINE)
    assert row is not None, f"configuration/README.md has no row for {name}"
    return row.group()


def test_readme_begins_with_where_the_class_is():
    assert README.splitlines()[0] == (
        "DLRConfig is defined in `modeling_dlr/configuration_dlr.py`; everything here loads into it."
    )


def test_generated_files_are_up_to_date():
    """`python make.py docs` would change nothing."""
    assert (FOLDER / "FIELDS.md").read_text(encoding="utf-8") == fields_markdown()
    assert json.loads((FOLDER / "dlr_config.schema.json").read_text(encoding="utf-8")) == json_schema()


def test_every_kernel_is_documented():
    """Each kernel_type has its table and its schema, and each key stands in one of the two tables that it may be in."""
    shared, *own = fields_markdown().split("\n## ")[1:]
    schemas = json_schema()["properties"]["kernel_parameters"]["anyOf"][:-1]
    for (kernel_type, specs), table, schema in zip(KERNEL_FIELDS.items(), own, schemas, strict=True):
        assert table.startswith(f'More keys for `kernel_type` `"{kernel_type}"`')
        assert sorted(re.findall(r"^\| `(\w+)`", shared + table, flags=re.MULTILINE)) == sorted(specs)
        assert schema["properties"].keys() == specs.keys()
        assert schema["properties"]["kernel_type"]["const"] == kernel_type


@by_folder([*MODELS, *RECIPES])
def test_schema_knows_every_field(folder: Path):
    written = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    assert written.keys() <= json_schema()["properties"].keys()


@by_folder(MODELS)
def test_model_loads_builds_and_runs(folder: Path):
    config = AutoConfig.from_pretrained(folder)
    size = count(build(config))
    device = "meta" if size > LARGE else "cpu"
    model = build(config, device)
    if config.input_size is None:
        inputs = {"input_ids": torch.zeros(2, 7, dtype=torch.long, device=device)}
    else:
        inputs = {"input_values": torch.zeros(2, 7, config.input_size, device=device)}
    with torch.no_grad():
        assert model(**inputs).last_hidden_state.shape == (2, 7, config.hidden_size)
    assert f"| {size / 1e6:.2f} M |" in table_row(folder.name)


@by_folder(RECIPES)
def test_recipe_loads_and_builds(folder: Path, tmp_path: Path):
    training = read_training(folder)
    model = build(recipe_config(folder))
    arguments = TrainingArguments(output_dir=str(tmp_path), **training["training_arguments"])
    assert not arguments.dataloader_drop_last  # the Trainer would drop examples of evaluations, too
    groups = parameter_groups(model, arguments.learning_rate, arguments.weight_decay, training["state_learning_rate"])
    assert sum(len(group["params"]) for group in groups) == len(list(model.parameters()))
    assert f"| {count(model) / 1e6:.2f} M |" in table_row(folder.name)


@pytest.mark.parametrize("path", LAUNCHES, ids=lambda path: path.stem)
def test_accelerate_parses(path: Path):
    """Accelerate takes every key, and the blocks to be sharded are ours."""
    launch = load_config_from_file(str(path)).to_dict()
    written = yaml.safe_load(path.read_text(encoding="utf-8"))
    assert written.items() <= launch.items()
    assert launch.get("fsdp_config", {}).get("fsdp_transformer_layer_cls_to_wrap", "DLRBlock") == DLRBlock.__name__
    assert path.name in table_row(path.name)


@pytest.mark.slow
def test_accelerate_launches_a_recipe(tmp_path: Path):
    """The command that the README shows, cut short."""
    launch = [sys.executable, "-m", "accelerate.commands.launch", "--config_file", FOLDER / "accelerate" / "cpu.yaml"]
    recipe = [
        "-m",
        "modeling_dlr.cli",
        "recipes",
        "run",
        "twin-atomic-dlr",
        "--smoke",
        "--output_dir",
        tmp_path / "out",
    ]
    subprocess.run([*launch, *recipe], check=True)
    assert (tmp_path / "out" / "config.json").is_file()


def test_every_row_of_the_readme_exists():
    """The tables name no model, recipe or launch configuration that is gone."""
    named = set(re.findall(r"^\| `([\w.-]+)` ", README, flags=re.MULTILINE))
    there = {path.name for path in [*FOLDER.iterdir(), *MODELS, *RECIPES, *LAUNCHES]}
    assert named <= there
