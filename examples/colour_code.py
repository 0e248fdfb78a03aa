"""Label every character of Python code with the function behind `modeling-dlr train`, and print code in colours.

    python examples/colour_code.py      # trains for ten epochs: about two minutes on two cores
    python examples/colour_code.py 20   # or for twenty

A string can be hundreds of characters long, and its content can look like code: the model must remember the quote.
"""

import io
import json
import keyword
import random
import sys
import tokenize
from pathlib import Path

from rich.console import Console
from rich.text import Text

from modeling_dlr.finetuning import TrainOptions, train
from modeling_dlr.inference import Predictor

KINDS = {"NAME": "name", "NUMBER": "number", "STRING": "string", "COMMENT": "comment", "OP": "operator"}
STYLES = {"keyword": "bold magenta", "name": "cyan", "number": "yellow", "string": "green", "operator": "red"}
STYLES["comment"] = "bright_black italic"


def spans(source: str) -> list[dict]:
    """Where a token of Python begins and ends in a source, and what it is."""
    lines = [0]
    for line in source.splitlines(keepends=True):
        lines.append(lines[-1] + len(line))
    found = []
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        name = tokenize.tok_name[token.type]
        # From Python 3.12 a formatted string has several tokens.
        kind = "string" if name.startswith(("FSTRING", "TSTRING")) else KINDS.get(name)
        if kind and token.string:
            (first, left), (last, right) = token.start, token.end
            kind = "keyword" if keyword.iskeyword(token.string) else kind
            found.append({"start": lines[first - 1] + left, "end": lines[last - 1] + right, "label": kind})
    return found


# Files of Python's standard library; one of them is not trained on, and is coloured in the end.
files = [path for path in sorted(Path(random.__file__).parent.glob("*.py")) if path.stat().st_size < 40_000]
texts = [text for path in files if (text := path.read_text(encoding="utf-8")).isascii() and "\f" not in text]
random.Random(0).shuffle(texts)  # noqa: S311
shown, *texts = texts
table = Path("outputs/python-code.jsonl")
table.parent.mkdir(exist_ok=True)
rows = [json.dumps({"text": text, "label": spans(text)}) for text in texts if text]
table.write_text("\n".join(rows), encoding="utf-8")

epochs = float(sys.argv[1]) if len(sys.argv) > 1 else 10
options = TrainOptions(
    output=Path("outputs/colours"), tokenizer="bytes", max_length=4096, batch_size=4, epochs=epochs, state_size=128,
    learning_rate=4e-3, dropout=0.0, class_weights=False,
)  # fmt: skip
report = train(table, options)

code = Text(shown[:1500])
for span in Predictor("outputs/colours")([shown[:1500]]):
    if span["label"]:
        code.stylize(STYLES[span["label"]], span["start"], span["end"])
console = Console()
console.rule("a file that was not trained on, coloured by the model")
console.print(code)
console.rule()
