"""`modeling-dlr convert | card | verify | push`: the verbs of `hub_upload`, loaded when one is called."""

from typing import Any

import typer

from modeling_dlr.finetuning.quiet import quiet_libraries

VERBS = {
    "convert": "Make a model folder of an official checkpoint.",
    "card": "Write the model card of a folder.",
    "verify": "Check a folder, and load it without this package.",
    "push": "Verify a folder, then upload it.",
}

# `hub_upload` parses what follows a verb, `--help` included.
_UNPARSED = {"allow_extra_args": True, "allow_interspersed_args": False, "ignore_unknown_options": True}


def add_verbs(app: typer.Typer) -> None:
    """Give an app the verbs of the Hub."""
    for verb, summary in VERBS.items():
        app.command(verb, help=summary, add_help_option=False, context_settings=_UNPARSED)(_run)


def card_callback(dataset: str | None, picture: bool, run: dict[str, Any]) -> Any:
    """The callback that writes the model card of a run."""
    from hub_upload.callback import CardCallback
    from hub_upload.card import CardOptions

    return CardCallback(CardOptions(dataset=dataset, picture=picture), run=run)


def _run(context: typer.Context) -> None:
    from hub_upload.__main__ import main

    with quiet_libraries():
        status = main([str(context.info_name), *context.args])
    raise typer.Exit(status)
