"""Write `configuration/FIELDS.md` and `configuration/dlr_config.schema.json` from `DLRConfig`.

    python -m modeling_dlr.configuration_docs

A test checks that both files are up to date.
"""

import json
from collections.abc import Sequence
from dataclasses import Field, fields
from pathlib import Path
from types import NoneType
from typing import Any, Literal, get_args, get_origin

from modeling_dlr.markdown import markdown_table

from .configuration_dlr import DLRConfig
from .kernel_parameters_dlr import KERNEL_FIELDS, KernelField, Range

FOLDER = Path(__file__).resolve().parent.parent / "configuration"

# Type names for readers and in JSON Schema.
TYPE_NAMES = {bool: "bool", dict: "dict", float: "float", int: "int", str: "str", NoneType: "None"}
JSON_TYPES = {bool: "boolean", dict: "object", float: "number", int: "integer", str: "string", NoneType: "null"}

INTRODUCTION = """\
<!-- Written by `python make.py docs` from configuration_dlr.py and kernel_parameters_dlr.py: edit those. -->

# Fields of `DLRConfig`

Every field has a default, so `DLRConfig()` is a complete configuration. An unknown name or a value out of range raises
an error that names the correction. Unknown names in a file are kept, and a warning lists them. Names in parentheses are
those of the official code.
"""

INHERITED = """\
All other fields (`id2label`, `label2id`, `num_labels`, `problem_type`, `dtype`, `output_hidden_states`, …) are those of
every `PreTrainedConfig` of transformers, with the same meaning. `id2label` gives the classes 0, 1, … different names;
`label2id` and `num_labels` follow from it.
"""


def own_fields() -> list[Field[Any]]:
    """The fields of `DLRConfig` without those that every configuration of transformers has."""
    return [spec for spec in fields(DLRConfig) if "meaning" in spec.metadata]


def fields_markdown() -> str:
    """The text of FIELDS.md."""
    sections = [INTRODUCTION, _table([_row_of_field(spec) for spec in own_fields()]), INHERITED]
    sections += ["## `kernel_parameters` of every `kernel_type`\n", _table(_rows_of_kernel(shared_kernel_fields()))]
    for kernel_type, specs in KERNEL_FIELDS.items():
        own = {name: spec for name, spec in specs.items() if name not in shared_kernel_fields()}
        sections += [f'## More keys for `kernel_type` `"{kernel_type}"`\n', _table(_rows_of_kernel(own))]
    return "\n".join(sections)


def shared_kernel_fields() -> dict[str, KernelField]:
    """The keys of ``kernel_parameters`` that are identical, default included, in every kernel_type."""
    first, *others = KERNEL_FIELDS.values()
    return {name: spec for name, spec in first.items() if all(specs.get(name) == spec for specs in others)}


def _row_of_field(spec: Field[Any]) -> list[str]:
    choices, types = _choices_and_types(spec.type)
    default = "see below" if spec.name == "kernel_parameters" else f"`{spec.default!r}`"
    meaning, symbol = spec.metadata["meaning"], spec.metadata["symbol"]
    return [f"`{spec.name}`", *_type_and_range(choices, types, spec.metadata["range"]), default, meaning, symbol]


def _rows_of_kernel(specs: dict[str, KernelField]) -> list[list[str]]:
    return [
        [f"`{name}`", *_type_and_range(spec.choices, spec.types, spec.allowed), f"`{spec.default!r}`", spec.meaning, ""]
        for name, spec in specs.items()
    ]


def _type_and_range(choices: Sequence[Any], types: Sequence[Any], allowed: Range | None) -> tuple[str, str]:
    if choices:
        return "choice", ", ".join(f"`{choice!r}`" for choice in choices)
    names = [TYPE_NAMES.get(each, str(each)) for each in types]
    if "float" in names and "int" in names:
        names.remove("int")
    return " or ".join(names), "" if allowed is None else str(allowed)


def _table(rows: list[list[str]]) -> str:
    header = ["name", "type", "range or choices", "default", "meaning", "symbol"]
    return markdown_table(header, rows) + "\n"


def json_schema() -> dict[str, Any]:
    """The content of dlr_config.schema.json (JSON Schema, draft 2020-12)."""
    kernels = [_schema_of_kernel(kernel_type, specs) for kernel_type, specs in KERNEL_FIELDS.items()]
    properties = {spec.name: _schema_of_field(spec) for spec in own_fields()}
    properties["kernel_parameters"] = {
        "description": properties["kernel_parameters"]["description"],
        "anyOf": [*kernels, {"type": "null"}],
    }
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "DLRConfig",
        "description": "config.json of a DLR model. Fields of every transformers model may stand beside these.",
        "type": "object",
        "properties": {"model_type": {"const": DLRConfig.model_type}, **properties},
    }


def _schema_of_field(spec: Field[Any]) -> dict[str, Any]:
    choices, types = _choices_and_types(spec.type)
    description = {"description": spec.metadata["meaning"]}
    return description | _schema_of_values(choices, types, spec.metadata["range"]) | {"default": spec.default}


def _schema_of_kernel(kernel_type: str, specs: dict[str, KernelField]) -> dict[str, Any]:
    fields = {name: _schema_of_kernel_field(spec) for name, spec in specs.items()}
    name = {"kernel_type": {"description": specs["kernel_type"].meaning, "const": kernel_type}}
    may_be_left_out = specs["kernel_type"].default == kernel_type
    return {
        "type": "object",
        "properties": fields | name,
        "required": [] if may_be_left_out else ["kernel_type"],
        "additionalProperties": False,
    }


def _schema_of_kernel_field(spec: KernelField) -> dict[str, Any]:
    values = _schema_of_values(spec.choices, spec.types, spec.allowed)
    return {"description": spec.meaning} | values | {"default": spec.default}


def _schema_of_values(choices: Sequence[Any], types: Sequence[Any], allowed: Range | None) -> dict[str, Any]:
    if choices:
        return {"enum": list(choices)}
    entries = [get_args(each)[0] for each in types if get_origin(each) is list]
    json_types = {"array" if get_origin(each) is list else JSON_TYPES[each] for each in types}
    if "number" in json_types:
        json_types.discard("integer")
    schema: dict[str, Any] = {"type": json_types.pop() if len(json_types) == 1 else sorted(json_types)}
    if entries:
        schema["items"] = {"type": JSON_TYPES[entries[0]]}
    if allowed is not None:
        schema["exclusiveMinimum" if allowed.open_minimum else "minimum"] = allowed.minimum
        if allowed.maximum != float("inf"):
            schema["maximum"] = allowed.maximum
    return schema


def _choices_and_types(annotation: Any) -> tuple[tuple[Any, ...], tuple[Any, ...]]:
    """The values of a `Literal` (None included if allowed), or else the types of a union."""
    types = (annotation,) if isinstance(annotation, type) or get_origin(annotation) is Literal else get_args(annotation)
    literals = [each for each in types if get_origin(each) is Literal]
    if not literals:
        return (), types
    return (*(None for each in types if each is NoneType), *get_args(literals[0])), ()


def main() -> None:
    """Write both files into the folder `configuration/` of the checkout."""
    if not FOLDER.is_dir():
        raise SystemExit(f"There is no folder {FOLDER}: run this from a checkout of the repository.")
    for name, text in {
        "FIELDS.md": fields_markdown(),
        "dlr_config.schema.json": json.dumps(json_schema(), indent=2, ensure_ascii=False) + "\n",
    }.items():
        (FOLDER / name).write_text(text, encoding="utf-8")
        print(f"wrote configuration/{name}")


if __name__ == "__main__":
    main()
