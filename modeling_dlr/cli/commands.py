"""The commands of `modeling-dlr`, one file for each group of them."""

import typer
from typer.exceptions import TyperException

from modeling_dlr.launch import set_up_process

from .demo import demo
from .hub import add_verbs
from .plan import plan
from .recipes import recipes
from .sequences import score
from .tables import embed, predict
from .training import evaluate, train

app = typer.Typer(no_args_is_help=True, pretty_exceptions_enable=False, add_completion=False)
app.command()(train)
app.command()(evaluate)
app.command()(predict)
app.command()(embed)
app.command()(score)
app.command()(plan)
app.command()(demo)
app.add_typer(recipes, name="recipes")
add_verbs(app)


@app.callback()
def _root() -> None:
    """Use the models of this library from a shell."""


def main() -> None:
    """Run the command that the shell names. Wrong names and values of options end it with one line and status 2."""
    set_up_process()
    try:
        status = app(standalone_mode=False, prog_name="modeling-dlr")
    except TyperException as error:
        # Without a command, typer has shown the help.
        if message := " ".join(error.format_message().split()).rstrip("."):
            context = getattr(error, "ctx", None)
            path = "modeling-dlr" if context is None else context.command_path
            typer.echo(f"{path}: {message}. See {path} --help.", err=True)
        raise SystemExit(2) from None
    raise SystemExit(status)
