"""`python -m modeling_dlr.cli`."""

from .commands import main

main()
