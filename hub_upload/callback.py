"""A callback for the stock Trainer that saves the model and its card at the end of training."""

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from transformers import Trainer, TrainerCallback, TrainerControl, TrainerState, TrainingArguments
from transformers.modelcard import extract_hyperparameters_from_trainer

from modeling_dlr.results import RESULTS, library_versions

from .card import CardOptions, write_card
from .folders import write_whole

_NOT_METRICS = ("runtime", "samples_per_second", "steps_per_second", "model_preparation_time")


class CardCallback(TrainerCallback):
    """Save model, tokenizer, results.json and the model card at the end of training.

    A later evaluation updates results.json and the card. With `Trainer(callbacks=...)`, `Trainer.push_to_hub` replaces
    this card by transformers' own; use `attach` to push this one.

    Args:
        options: options of the card that no log contains: license, language, data set, limits.
        baselines: baselines such as {"accuracy_tfidf": 0.98}, shown next to the metric that their name begins with.
        run: further entries of results.json: "recipe", "data", "command", "seed", as `write_card` reads them.

    >>> from transformers import Trainer
    >>> trainer = CardCallback(CardOptions(language=["en"])).attach(Trainer(model, args))  # doctest: +SKIP
    """

    def __init__(
        self,
        options: CardOptions | None = None,
        baselines: dict[str, float] | None = None,
        run: dict[str, Any] | None = None,
    ):
        self.options = options or CardOptions()
        self.baselines = baselines or {}
        self.run = run or {}
        self.trained = False
        self.scores: dict[str, Any] = {}

    def attach(self, trainer: Trainer) -> Trainer:
        """Add this callback to a trainer, and let its `push_to_hub` and `create_model_card` write this card.

        Args:
            trainer: a stock Trainer. Arguments of its `create_model_card` (language, tags, ...) are ignored; use
                `CardOptions`.

        Returns:
            The same trainer.
        """

        def create_model_card(*_given: Any, **_named: Any) -> None:
            if trainer.is_world_process_zero():
                self._write(trainer.args, trainer.state)

        trainer.add_callback(self)
        trainer.create_model_card = create_model_card  # the one hook that push_to_hub calls between saving and sending
        return trainer

    def on_train_begin(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any):
        """Note that training runs: its evaluations are of weights that are not saved yet."""
        self.trained = False

    def on_train_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any):
        """Save the model and write the card."""
        self.trained = True
        self.scores = scores_of_the_weights(args, state)
        if not state.is_world_process_zero:
            return
        kwargs["model"].save_pretrained(args.output_dir)
        if kwargs.get("processing_class") is not None:
            kwargs["processing_class"].save_pretrained(args.output_dir)
        self._write(args, state)

    def on_evaluate(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any):
        """Update the card if training has ended."""
        if not self.trained:
            return
        self.scores |= _scores(kwargs.get("metrics") or {})
        if state.is_world_process_zero:
            self._write(args, state)

    def _write(self, args: TrainingArguments, state: TrainerState) -> None:
        folder = Path(str(args.output_dir))
        trained = next((entry for entry in reversed(state.log_history) if "train_runtime" in entry), None)
        results: dict[str, Any] = {
            "hyperparameters": extract_hyperparameters_from_trainer(SimpleNamespace(args=args)),
            "log_history": state.log_history,
            "metrics": self.scores | self.baselines,
            "versions": library_versions(),
        }
        if trained is not None:
            results["training_seconds"] = round(trained["train_runtime"], 1)
        write_whole(folder, {RESULTS: (json.dumps(results | self.run, indent=2, default=str) + "\n").encode()})
        write_card(folder, self.options)


def scores_of_the_weights(args: TrainingArguments, state: TrainerState) -> dict[str, Any]:
    """The evaluation of the final weights, from the best step or the last one; empty if that step had none."""
    best = state.best_global_step if args.load_best_model_at_end else None
    step = state.global_step if best is None else best
    return {
        name: value
        for entry in state.log_history
        if entry.get("step") == step
        for name, value in _scores(entry).items()
    }


def _scores(logged: dict[str, Any]) -> dict[str, Any]:
    """The scores of an evaluation, for one data set or for each of several."""
    return {
        name.removeprefix("eval_"): value
        for name, value in logged.items()
        if name.startswith("eval_") and not name.endswith(_NOT_METRICS)
    }
