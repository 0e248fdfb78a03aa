"""The command line, `modeling-dlr`."""

from .commands import app, main

__all__ = ["app", "main"]
