"""Damaged configurations: each loads and can be saved and loaded again, or one clear line says what is wrong."""

import json
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from modeling_dlr import DLRConfig

LANGUAGE = DLRConfig(
    vocab_size=11, pad_token_id=0, bos_token_id=1, eos_token_id=[2, 3], dtype="bfloat16", use_cache=True
)
LABELS = DLRConfig(input_size=2, id2label={0: "a", 1: "b", 2: "c"}, problem_type="multi_label_classification")
LABELS.architectures = ["DLRForSequenceClassification"]
HYBRID = DLRConfig(num_hidden_layers=2, layer_types=["dlr", "local_attention"], rope_parameters={"rope_theta": 500})
TAPS = DLRConfig(
    kernel_parameters={"kernel_type": "sgconv", "num_scales": 3}, quantization_config={"quant_method": "none"}
)
DSS = DLRConfig(kernel_parameters={"kernel_type": "dss", "version": "clip"}, auto_map={"AutoConfig": "a.B"})
WHOLE = [json.loads(config.to_json_string()) for config in (LANGUAGE, LABELS, HYBRID, TAPS, DSS)]


def nested(depth: int) -> Any:
    """Dictionaries and lists in turn, one in the other."""
    value: Any = 1
    for level in range(depth):
        value = [value] if level % 2 else {"dtype": value}
    return value


VALUES: list[Any] = [
    None, True, False, -1, 0, 1, 3, 2**31, 10**18, 10**40, 1.5, -0.5, 1e308, float("nan"), float("inf"), "", "a", "dlr",
    "float32", "nn", "\x00", "é" * 10**4, [], [1], ["dlr"], [[None]], {}, {"a": 1}, {"0": "a"}, {"1": "a", "2": "b"},
    {"": None}, {"dtype": [1]}, {"__float__": "NaN"}, {"rope_type": "yarn"}, {"kernel_type": "s4d"},
    {"read_out": {"a": 1}},
    nested(20), nested(60), list(range(3000)), {str(label): str(label) for label in range(3000)},
]  # fmt: skip

NAMES = [
    "", " ", "é", "\x00", "hidden_size ", "hiden_size", "d_model", "max_length", "temperature", "threshold",
    "num_labels", "id2label", "label2id", "problem_type", "torch_dtype", "dtype", "auto_map", "attn_implementation",
    "output_attentions", "quantization_config", "per_layer_config", "rope_theta", "rope_scaling",
    "partial_rotary_factor", "architectures", "is_encoder_decoder", "text_config", "sub_configs",
    "configuration_files", "attribute_map", "to_dict", "validate", "validate_heads", "known_names", "num_directions",
    "use_return_dict", "is_heterogeneous", "__class__", "__dict__", "__deepcopy__", "_heterogeneity_spec",
    "_attn_implementation", "_problem_type_of", "_post_init_done", "_auto_class", "_name_or_path", "_mine",
    "transformers_weights", "transformers_version", "base_model_tp_plan", "model_type", "kwargs",
]  # fmt: skip


def another_value(whole: Any, chance: random.Random) -> Any:
    return whole | {chance.choice(sorted(whole)): chance.choice(VALUES)}


def another_name(whole: Any, chance: random.Random) -> Any:
    return whole | {chance.choice(NAMES): chance.choice(VALUES)}


def inner_value(whole: Any, chance: random.Random) -> Any:
    name = chance.choice([name for name, value in sorted(whole.items()) if isinstance(value, (dict, list)) and value])
    inner = whole[name]
    if isinstance(inner, list):
        return whole | {name: [*inner[1:], chance.choice(VALUES)]}
    return whole | {name: inner | {chance.choice([*sorted(inner), *NAMES]): chance.choice(VALUES)}}


def misspelt(whole: Any, chance: random.Random) -> Any:
    name = chance.choice(sorted(whole))
    at = chance.randrange(len(name))
    return {key if key != name else key[:at] + key[at + 1 :]: value for key, value in whole.items()}


def missing(whole: Any, chance: random.Random) -> Any:
    gone = chance.sample(sorted(whole), chance.randint(1, 5))
    return {name: value for name, value in whole.items() if name not in gone}


def wrapped(whole: Any, chance: random.Random) -> Any:
    name = chance.choice(sorted(whole))
    return chance.choice(
        [[whole], {"config": whole}, whole | {name: [whole[name]]}, whole | {name: {"a": whole[name]}}]
    )


def mixed(whole: Any, chance: random.Random) -> Any:
    other = chance.choice(WHOLE)
    return whole | {name: other[name] for name in chance.sample(sorted(other), 3)}


def cut(whole: Any, chance: random.Random) -> bytes:
    written = json.dumps(whole).encode()
    return written[: chance.randrange(len(written))]


def flipped(whole: Any, chance: random.Random) -> bytes:
    written = bytearray(json.dumps(whole).encode())
    for _ in range(chance.randint(1, 3)):
        written[chance.randrange(len(written))] = chance.randrange(256)
    return bytes(written)


def doubled(whole: Any, chance: random.Random) -> bytes:
    written = json.dumps(whole).encode()
    at = chance.randrange(len(written))
    return chance.choice([written * 2, b"\xef\xbb\xbf" + written, written[:at] + b"[" * 10**5 + written[at:]])


DAMAGES: list[Callable[[Any, random.Random], Any]] = [
    another_value, another_name, inner_value, misspelt, missing, wrapped, mixed, cut, flipped, doubled,
]  # fmt: skip


@pytest.mark.parametrize("damage", DAMAGES, ids=lambda damage: damage.__name__)
def test_damaged(damage: Callable[[Any, random.Random], Any], tmp_path: Path):
    """Of 600 files in a fixed order, each is refused in one line, or survives a round trip."""
    chance, file, refused = random.Random(damage.__name__), tmp_path / "config.json", 0
    for number in range(60):
        damaged = damage(WHOLE[number % len(WHOLE)], chance)
        file.write_bytes(damaged if isinstance(damaged, bytes) else json.dumps(damaged).encode())
        try:
            config = DLRConfig.from_pretrained(tmp_path)
        except (ValueError, OSError) as error:
            refused += 1
            message = str(error)
            assert "\n" not in message.strip(), message
            assert 20 < len(message) < 1000, message
        else:
            config.validate()
            again = DLRConfig.from_dict(json.loads(config.to_json_string()))
            assert again.to_json_string() == config.to_json_string()
    assert refused < 60 or damage in (cut, doubled)
    assert refused > 0 or damage in (misspelt, missing)
