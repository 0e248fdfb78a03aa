"""Compare the folders of tests/golden/folders with what loads from them.

    python -S saved_folders.py FOLDERS

checks copies that hold code, in a process without the package; run by test_saved_folders.py.
"""

import importlib.util
import json
import sys
from pathlib import Path
from typing import Any

import torch
import transformers
from safetensors.torch import load_file
from tolerances import assert_close

# Other releases write another version, and code in other files.
MAY_DIFFER = {"transformers_version", "auto_map"}


def config_of(folder: Path) -> dict[str, Any]:
    """What config.json says, without `MAY_DIFFER`."""
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    return {name: value for name, value in config.items() if name not in MAY_DIFFER}


def check(folder: Path, again: Path, **options: Any) -> torch.nn.Module:
    """Load a folder with its Auto class, compare weights and logits, save it into ``again``, compare that, return it.

    Logits are compared to 1e-12 and not to the bit: the order of a sum depends on the processor's vector width.
    """
    expected = load_file(folder / "expected.safetensors")
    logits, saved = expected.pop("logits"), load_file(folder / "model.safetensors")
    causal = config_of(folder)["architectures"][0].endswith("CausalLM")
    auto = getattr(transformers, "AutoModelForCausalLM" if causal else "AutoModelForSequenceClassification")
    model, info = auto.from_pretrained(folder, output_loading_info=True, **options)
    assert not any(info.values()), info
    state = model.state_dict()
    tied = model.all_tied_weights_keys
    assert state.keys() - tied.keys() == saved.keys()
    for name, value in state.items():
        torch.testing.assert_close(value, saved[tied.get(name, name)], rtol=0, atol=0, msg=name)
    with torch.no_grad():
        assert_close(model(**expected).logits, logits, torch.float64)
    model.save_pretrained(again)
    assert config_of(again) == config_of(folder)
    torch.testing.assert_close(load_file(again / "model.safetensors"), saved, rtol=0, atol=0)
    return model


def main(folders: Path) -> None:
    assert importlib.util.find_spec("modeling_dlr") is None
    torch.set_num_threads(1)
    for folder in sorted(folders.iterdir()):
        model = check(folder, folder.with_name(f"{folder.name} again"), trust_remote_code=True)
        assert type(model).__module__.startswith("transformers_modules.")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
