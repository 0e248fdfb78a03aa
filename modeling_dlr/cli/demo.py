"""`modeling-dlr demo`: a page on which a saved model is tried."""

import contextlib
import threading
import webbrowser
from pathlib import Path
from typing import Annotated

import typer

from .options import one_line_errors


@one_line_errors
def demo(
    folder: Annotated[Path, typer.Argument(help="Of a trained model: from `modeling-dlr train` or save_pretrained.")],
    port: Annotated[int | None, typer.Option(min=1, max=65535, help="By default the first free one from 7860.")] = None,
    host: Annotated[str, typer.Option(help="0.0.0.0 lets other machines open the page.")] = "127.0.0.1",
    device: Annotated[str, typer.Option(help="Such as cpu or cuda.")] = "cpu",
    open_browser: Annotated[bool, typer.Option("--open/--no-open", help="Open the page in your browser.")] = True,
) -> None:
    """Try a model on a page in your browser: its answers in colour, and its poles and kernels to move.

    Needs Gradio: pip install 'modeling-dlr[demo]'
    """
    from modeling_dlr.demo import close, demo_page, launch

    page = demo_page(folder, device)
    address = launch(page, host, port)
    typer.echo(f"The page is at {address} until you press Ctrl-C.")
    if open_browser:
        webbrowser.open(address)
    with contextlib.suppress(KeyboardInterrupt):
        threading.Event().wait()
    close(page)
