"""The weights of `dlr-small-bytes-bidirectional`, as a folder that ``from_pretrained`` reads."""

from pathlib import Path

FOLDER = Path(__file__).with_name("dlr-small-bytes-bidirectional")
