"""Write the folder of the pretrained bytes model from the last checkpoint of `pretrain.py`.

    python benchmarks/pretrained_folder.py outputs/pretrain/checkpoint-18000 pretrained/dlr-small-bytes-bidirectional

The weights are bfloat16, those of the kernels float32. There is no code in the folder: `modeling-dlr push` adds it. The
held-out texts are scored with what is written; bits are of a hidden byte, and a byte that is guessed by its frequency
alone stands beside them.
"""

import argparse
import json
import math
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from corpus import FOLDER, KINDS
from matplotlib.figure import Figure
from pretrain import IGNORED, NAME, SHARE, SPAN, STATE_RATE, Windows, arguments_of, parse
from transformers import TrainerState
from transformers.modelcard import extract_hyperparameters_from_trainer

from hub_upload.card import CardOptions, write_card
from modeling_dlr import DLRForMaskedLM
from modeling_dlr.results import RESULTS, library_versions
from modeling_dlr.tokenization import byte_tokenizer

LENGTH = 1024


@torch.no_grad()
def bits_of(model: DLRForMaskedLM, content: np.ndarray, length: int, most: int = 256) -> tuple[float, float]:
    """Bits of a hidden byte of held-out texts, by the model and by the frequencies of bytes.

    Args:
        model: in evaluation.
        content: [size] uint8.
        length: steps of a window.
        most: windows at most.
    """
    windows = Windows(content, length, min(most, max(1, len(content) // length)), seed=1)
    total, count = 0.0, 0
    for number in range(len(windows)):
        batch = {name: torch.from_numpy(each).unsqueeze(0) for name, each in windows[number].items()}
        hidden = int((batch["labels"] != IGNORED).sum())
        total, count = total + float(model(**batch).loss) * hidden, count + hidden
    shares = np.bincount(content, minlength=256) / len(content)
    return total / count / math.log(2), float(-(shares[shares > 0] * np.log2(shares[shares > 0])).sum())


def draw_curve(history: list[dict[str, Any]], path: Path) -> None:
    """Draw the bits of a hidden byte over the steps, for each kind of held-out texts."""
    figure = Figure(figsize=(7, 3.5), layout="constrained")
    axes = figure.subplots()
    for key, label in (("loss", "training"), *((f"eval_{kind}_loss", f"held out, {kind}") for kind in KINDS)):
        points = [(entry["step"], entry[key] / math.log(2)) for entry in history if key in entry]
        if points:
            axes.plot(*zip(*points, strict=True), label=label, linewidth=1)
    axes.set(xlabel="step", ylabel="bits of a hidden byte")
    axes.legend()
    figure.savefig(path, dpi=120, metadata={"Software": None})


def leave_out_code(folder: Path) -> None:
    """Leave out what `save_pretrained` has copied of this library, and where it is."""
    for path in folder.glob("*.py"):
        path.unlink()
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    del config["auto_map"]
    (folder / "config.json").write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")


def write_folder(checkpoint: Path, folder: Path, corpus: Path = FOLDER, length: int = LENGTH, said: str = "") -> None:
    """Write weights, tokenizer, scores, curve and card; ``said`` are other options of `pretrain.py` in its pieces."""
    state = TrainerState.load_from_json(str(checkpoint / "trainer_state.json"))
    model = DLRForMaskedLM.from_pretrained(checkpoint, dtype=torch.bfloat16)
    model.save_pretrained(folder)
    leave_out_code(folder)
    model = DLRForMaskedLM.from_pretrained(folder, dtype=torch.float32).eval()  # computes faster
    byte_tokenizer(add_prefix_space=False).save_pretrained(folder)  # in which a text may have a <mask>
    metrics = {}
    for kind in KINDS:
        bits, by_frequency = bits_of(model, np.load(corpus / f"held_out_{kind}.npy"), length)
        metrics |= {f"bits_{kind}": round(bits, 4), f"bits_{kind}_by_frequency": round(by_frequency, 4)}
    history = [
        {key: value for key, value in entry.items() if key in ("step", "epoch") or key.endswith("loss")}
        for entry in state.log_history
    ]
    options = parse(["--steps", str(state.global_step), *said.split()])
    hyperparameters = extract_hyperparameters_from_trainer(SimpleNamespace(args=arguments_of(options)))
    sources = json.loads((corpus / "sources.json").read_text(encoding="utf-8"))
    results = {
        "metrics": metrics,
        "data": {"sources": sources},
        "recipe": {"name": NAME},
        "hyperparameters": hyperparameters | {"state_learning_rate": STATE_RATE},
        "command": f"python benchmarks/pretrain.py --minutes 100 --steps {state.global_step}{said and f' {said}'}",
        "log_history": history,
        "versions": library_versions(),
    }
    (folder / RESULTS).write_text(json.dumps(results) + "\n", encoding="utf-8")
    draw_curve(history, folder / "learning_curve.png")
    size = sum(entry["bytes"] for entry in sources if entry.get("array") == "train")
    licences = sorted({name for entry in sources for name in entry.get("licence", "").split(", ") if name})
    facts = [
        f"Hidden bytes: spans of {SPAN} on average, {SHARE:.0%} of all; bits are of a hidden byte.",
        f"Texts: {size / 1e6:.0f} MB of English, code and documentation in other languages, from the packages that "
        f"`{RESULTS}` lists, under {', '.join(licences)}. Lines of the data sets of `benchmarks/real_texts.py` were "
        "left out.",
        f"It has read {state.global_step * options.batch_size * options.length / 1e6:.0f} MB of them.",
        "Its folder in the repository has no code: `modeling-dlr push` adds what is used without the package.",
    ]
    limits = ["Its texts are documentation, reference works, speeches and code: other kinds are less known to it."]
    write_card(folder, CardOptions(title=NAME, language=["en", "de", "fr", "es"], facts=facts, limits=limits))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkpoint", type=Path)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--said", default="", help="other options of pretrain.py in its pieces, for the record")
    options = parser.parse_args()
    write_folder(options.checkpoint, options.folder, said=options.said)
