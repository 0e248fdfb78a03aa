"""One callback for the stock Trainer: at the end of training the output folder holds the model and its card."""

import importlib.metadata
import json
import platform
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments
from transformers.modelcard import extract_hyperparameters_from_trainer

from .card import RESULTS, CardOptions, write_card
from .folders import write_whole

_PACKAGES = ("modeling-dlr", "torch", "transformers", "datasets", "accelerate", "tokenizers")
_NOT_METRICS = {"runtime", "samples_per_second", "steps_per_second"}


class CardCallback(TrainerCallback):
    """Saves model and tokenizer at the end of training, with results.json and the model card beside them.

    An evaluation after the training brings both up to date. `Trainer.push_to_hub` puts transformers' own card in the
    place of this one; `python -m hub_upload push` keeps it.

    Args:
        options: what no log says: license, language, data set, limits.
        baselines: such as {"accuracy_tfidf": 0.98}, to stand beside the metric that their names begin with.

    >>> from transformers import Trainer
    >>> trainer = Trainer(model, args, callbacks=[CardCallback(CardOptions(language=["en"]))])  # doctest: +SKIP
    """

    def __init__(self, options: CardOptions | None = None, baselines: dict[str, float] | None = None):
        self.options = options or CardOptions()
        self.baselines = baselines or {}
        self.model: Any = None

    def on_train_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any):
        """Save what was trained, and write the card."""
        if not state.is_world_process_zero:
            return
        self.model = kwargs["model"]
        self.model.save_pretrained(args.output_dir)
        if kwargs.get("processing_class") is not None:
            kwargs["processing_class"].save_pretrained(args.output_dir)
        self._write(args, state)

    def on_evaluate(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any):
        """Bring the card up to date, if the training is over."""
        if self.model is not None and state.is_world_process_zero:
            self._write(args, state)

    def _write(self, args: TrainingArguments, state: TrainerState) -> None:
        folder = Path(str(args.output_dir))
        last: dict[str, Any] = next((entry for entry in reversed(state.log_history) if "eval_loss" in entry), {})
        metrics = {name.removeprefix("eval_"): value for name, value in last.items() if name.startswith("eval_")}
        trained = next((entry for entry in reversed(state.log_history) if "train_runtime" in entry), {})
        results = {
            "hyperparameters": extract_hyperparameters_from_trainer(SimpleNamespace(args=args)),
            "log_history": state.log_history,
            "metrics": {name: value for name, value in metrics.items() if name not in _NOT_METRICS} | self.baselines,
            "versions": {"python": platform.python_version()}
            | {name: importlib.metadata.version(name) for name in _PACKAGES},
            "training_seconds": round(trained.get("train_runtime", 0.0), 1),
        }
        write_whole(folder / RESULTS, json.dumps(results, indent=2, default=str) + "\n")
        write_card(folder, self.options)
