"""Keep the libraries from printing what is not for the reader."""

import contextlib
import sys
from collections.abc import Generator

import datasets
from huggingface_hub import utils as hub
from transformers.utils import logging


@contextlib.contextmanager
def quiet_libraries() -> Generator[None]:
    """In this context transformers and datasets print errors only, and no progress bars.

    Downloads from the Hub show theirs on terminals.
    """
    verbosity, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    had_bars, downloads = not datasets.are_progress_bars_disabled(), not hub.are_progress_bars_disabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    datasets.disable_progress_bars()
    if not sys.stderr.isatty():
        hub.disable_progress_bars()
    try:
        yield
    finally:
        logging.set_verbosity(verbosity)
        if bars:
            logging.enable_progress_bar()
        if had_bars:
            datasets.enable_progress_bars()
        if downloads:
            hub.enable_progress_bars()
