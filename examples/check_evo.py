"""Compare the scores of a published Evo-1 model with those of the official package, or of a file.

    python examples/check_evo.py togethercomputer/evo-1-8k-base --revision 1.1_fix --device cuda
    python examples/check_evo.py togethercomputer/evo-1-8k-base --revision 1.1_fix --expected scores.json

The first line needs the package evo-model (https://github.com/evo-design/evo) and a GPU, and downloads 13 GB. The file
of the second is a JSON object of sequences and their mean log-likelihoods, which anybody may have written elsewhere.
"""

import argparse
import importlib.util
import json
from collections.abc import Sequence
from pathlib import Path

import torch
from transformers import AutoModelForCausalLM

import modeling_dlr  # noqa: F401 - registers the models
from modeling_dlr.scoring import log_likelihoods
from modeling_dlr.tokenization import evo_tokenizer

# The beginning of the lacZ gene of Escherichia coli, its reverse complement, and a repeat.
SEQUENCES = [
    "ATGACCATGATTACGGATTCACTGGCCGTCGTTTTACAACGTCGTGACTGGGAAAACCCTGGCGTTACCCAACTTAATCGCC",
    "GGCGATTAAGTTGGGTAACGCCAGGGTTTTCCCAGTCACGACGTTGTAAAACGACGGCCAGTGAATCCGTAATCATGGTCAT",
    "ACGT" * 16,
]

# The official code takes log-probabilities in bfloat16, in steps of 0.008 near -1.4.
TOLERANCE = 0.02


def official_scores(name: str, sequences: Sequence[str], device: str) -> list[float]:
    """Score the sequences with the official package.

    Raises:
        SystemExit: if it is not installed.
    """
    if importlib.util.find_spec("evo") is None:
        raise SystemExit("check_evo.py: the package evo-model is not installed: install it, or pass --expected FILE.")
    # pyrefly: ignore[missing-import] - it is nowhere in the lock
    from evo import Evo, score_sequences

    official = Evo(name.rsplit("/", maxsplit=1)[-1])
    official.model.to(device).eval()
    return score_sequences(list(sequences), official.model, official.tokenizer, reduce_method="mean", device=device)


def main(arguments: Sequence[str] | None = None) -> None:
    """Print both scores of every sequence.

    Raises:
        SystemExit: with status 1, if any two differ by more than the rounding of the official ones.
    """
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", help="repository or folder")
    parser.add_argument("--revision", default=None)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--dtype", default="auto")
    parser.add_argument("--expected", type=Path, help="JSON object of sequences and mean log-likelihoods")
    options = parser.parse_args(arguments)
    expected = {} if options.expected is None else json.loads(options.expected.read_text(encoding="utf-8"))
    if not expected:
        expected = dict(zip(SEQUENCES, official_scores(options.model, SEQUENCES, options.device), strict=True))
    revision = {} if options.revision is None else {"revision": options.revision}
    model = AutoModelForCausalLM.from_pretrained(options.model, dtype=options.dtype, **revision)
    ours = log_likelihoods(model.to(torch.device(options.device)).eval(), evo_tokenizer(), list(expected))
    worst = 0.0
    for (sequence, theirs), score in zip(expected.items(), ours.tolist(), strict=True):
        worst = max(worst, abs(score - theirs))
        print(f"{sequence[:24]:24} expected {theirs:.4f}, here {score:.4f}")
    print(f"largest difference {worst:.4f}, of which {TOLERANCE} may be rounding")
    if worst > TOLERANCE:
        raise SystemExit(1)


if __name__ == "__main__":
    main()
