"""Log-likelihoods and embeddings of whole sequences under a causal language model, in batches by length.

They serve every causal language model of transformers, and are meant for models of DNA: a sequence may be read from
either strand, and begins with the token that begins the documents of pretraining.
"""

from collections.abc import Callable, Iterator, Sequence
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor, nn
from tqdm.auto import tqdm
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from .losses_dlr import POOLINGS, pool

Strands = Literal["forward", "reverse", "both"]
Reduction = Literal["sum", "mean"]

# Of DNA and RNA letters, those of sets of bases included (IUPAC 1984), the one that pairs with each.
_FROM, _TO = "ACGTUNRYSWKMBDHV-", "TGCAANYRSWMKVHDB-"
_LETTERS = frozenset(_FROM + _FROM.lower())
_COMPLEMENT = str.maketrans(_FROM + _FROM.lower(), _TO + _TO.lower())

# Steps whose log-probabilities over the whole vocabulary are held at a time.
_STEPS_PER_PIECE = 4096


def reverse_complement(sequence: str) -> str:
    """The other strand, read in its own direction. Letters of sets of bases become those of the paired sets.

    Raises:
        ValueError: for a letter that is not one of DNA or RNA, with its position, counted from 1.

    >>> reverse_complement("AACgN")
    'NcGTT'
    """
    for i, letter in enumerate(sequence):
        if letter not in _LETTERS:
            raise ValueError(
                f"A strand must be written in letters of DNA, got {letter!r} at position {i + 1}: score this sequence "
                "with strands='forward'."
            )
    return sequence.translate(_COMPLEMENT)[::-1]


class _Batch(NamedTuple):
    """Some sequences, by their ``places`` among all: ``input_ids`` [B, L], ``mask`` [B, L], and tokens of each."""

    places: list[int]
    input_ids: Tensor
    mask: Tensor
    lengths: list[int]


def token_log_likelihoods(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    sequences: Sequence[str],
    *,
    begin_token_id: int | None = None,
    batch_tokens: int = 16384,
    progress: bool = False,
) -> list[Tensor]:
    """The logarithm of the probability of every token, given those before it.

    Args:
        model: a causal language model. It is not put into evaluation mode: call ``model.eval()``.
        tokenizer: of the model; no special tokens are added.
        sequences: texts, none of them empty.
        begin_token_id: the token before the first one; None is the tokenizer's ``bos_token``, else its ``eos_token``.
        batch_tokens: tokens of a batch at most, padding included; a longer sequence is a batch of its own.
        progress: show a progress bar.

    Returns:
        For each sequence a tensor [tokens] in float32, on the CPU.

    Raises:
        TypeError: if ``sequences`` is one string, whose items are letters.
        ValueError: for an empty sequence, and where no token begins a sequence.
    """
    begin = _begin_token(tokenizer) if begin_token_id is None else begin_token_id
    found: dict[int, Tensor] = {}
    for batch in _batches(model, tokenizer, sequences, begin, batch_tokens, progress):
        with torch.inference_mode():
            logits = model(input_ids=batch.input_ids, attention_mask=batch.mask, use_cache=False).logits
            targets = batch.input_ids[:, 1:]
            pieces = [
                few.float().log_softmax(-1).gather(2, next_ones.unsqueeze(2)).squeeze(2)
                for few, next_ones in zip(
                    logits[:, :-1].split(_STEPS_PER_PIECE, dim=1), targets.split(_STEPS_PER_PIECE, dim=1), strict=True
                )
            ]
            likelihoods = torch.cat(pieces, dim=1).cpu()
        found |= {
            place: row[: n - 1].clone() for place, row, n in zip(batch.places, likelihoods, batch.lengths, strict=True)
        }
    return [found[place] for place in range(len(sequences))]


def log_likelihoods(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    sequences: Sequence[str],
    *,
    reduction: Reduction = "mean",
    strands: Strands = "forward",
    begin_token_id: int | None = None,
    batch_tokens: int = 16384,
    progress: bool = False,
) -> Tensor:
    """The log-likelihood of every sequence.

    Args:
        model: see `token_log_likelihoods`, also for what is not said here.
        tokenizer: of the model.
        sequences: texts, none of them empty.
        reduction: "sum" over the tokens of a sequence, or their "mean", by which lengths compare.
        strands: "forward" scores a sequence as it is, "reverse" its reverse complement, and "both" takes the mean.
        begin_token_id: the token before the first one.
        batch_tokens: tokens of a batch at most.
        progress: show a progress bar.

    Returns:
        [sequences] in float64, on the CPU: a sum of many tokens has more digits than float32, and ratios are small.

    Raises:
        TypeError: as `token_log_likelihoods`.
        ValueError: likewise, and as `reverse_complement`.
    """
    if strands not in ("forward", "reverse", "both") or reduction not in ("sum", "mean"):
        raise ValueError(
            "strands must be 'forward', 'reverse' or 'both', and reduction 'sum' or 'mean', got "
            f"{strands!r} and {reduction!r}."
        )
    check_sequences(sequences)
    read = [] if strands == "reverse" else list(sequences)
    read += [] if strands == "forward" else [reverse_complement(sequence) for sequence in sequences]
    per_token = token_log_likelihoods(
        model, tokenizer, read, begin_token_id=begin_token_id, batch_tokens=batch_tokens, progress=progress
    )
    values = torch.stack([row.double().sum() if reduction == "sum" else row.double().mean() for row in per_token])
    return values.view(2, -1).mean(0) if strands == "both" else values


def embeddings(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    sequences: Sequence[str],
    *,
    layer: int = -1,
    pooling: str = "mean",
    batch_tokens: int = 16384,
    progress: bool = False,
) -> Tensor:
    """The hidden states of every sequence after a layer, pooled over its own tokens.

    Args:
        model: with or without a head. It is not put into evaluation mode: call ``model.eval()``.
        tokenizer: of the model; no special tokens are added.
        sequences: texts, none of them empty.
        layer: 0 is the embedding of tokens, i the hidden states after i layers, and the last one, also -1, those that
            a head reads.
        pooling: how the tokens of a sequence become one vector, as ``DLRConfig.pooling`` names it.
        batch_tokens: tokens of a batch at most, padding included.
        progress: show a progress bar.

    Returns:
        [sequences, hidden_size] in float32, on the CPU.

    Raises:
        TypeError: if ``sequences`` is one string.
        ValueError: for an empty sequence, for a layer that the model does not have, and for another pooling.
    """
    if pooling not in POOLINGS:
        raise ValueError(f"pooling must be one of {list(POOLINGS)}, got {pooling!r}.")
    states_of, found = _layer(model.base_model, layer), {}
    for batch in _batches(model, tokenizer, sequences, None, batch_tokens, progress):
        with torch.inference_mode():
            states = states_of(input_ids=batch.input_ids, attention_mask=batch.mask, use_cache=False)
            # By lengths, not by weights: whatever stands at padding does not enter.
            vectors = [pooled(row[:n], pooling).cpu() for row, n in zip(states, batch.lengths, strict=True)]
        found |= dict(zip(batch.places, vectors, strict=True))
    return torch.stack([found[place] for place in range(len(sequences))])


def pooled(states: Tensor, pooling: str) -> Tensor:
    """The hidden states [L, H] of a sequence as one vector [H] in float32."""
    here = torch.ones(1, len(states), dtype=torch.bool, device=states.device)
    return pool(pooling, states.float().unsqueeze(0), here)[0][0]


def _layer(backbone: Any, layer: int) -> Callable[..., Tensor]:
    """A forward pass that returns the hidden states after a layer, and keeps no others."""
    count = backbone.config.num_hidden_layers
    check_layer(layer, count)
    layer %= count + 1
    if layer == count:
        return lambda **inputs: backbone(**inputs).last_hidden_state
    blocks = next(part for part in backbone.children() if isinstance(part, nn.ModuleList) and len(part) == count)
    module = backbone.get_input_embeddings() if layer == 0 else blocks[layer - 1]

    def states_of(**inputs: Any) -> Tensor:
        kept: list[Tensor] = []
        hook = module.register_forward_hook(
            lambda _module, _inputs, output: kept.append(output[0] if isinstance(output, tuple) else output)
        )
        try:
            backbone(**inputs)
        finally:
            hook.remove()
        return kept[0]

    return states_of


def check_layer(layer: int, count: int) -> None:
    """Refuse a layer that a model of ``count`` layers does not have.

    Raises:
        ValueError: naming it.
    """
    if not -count - 1 <= layer <= count:
        raise ValueError(f"layer must lie in 0 … {count} (or count back from -1), got {layer}.")


def check_sequences(sequences: Sequence[str]) -> None:
    """Refuse what is no list of texts, and empty texts.

    Raises:
        TypeError: for one string.
        ValueError: for no text, and for the first empty one.
    """
    if isinstance(sequences, str):
        raise TypeError(f"sequences must be several texts, got the string {sequences[:40]!r}: give [text].")
    empty = next((i for i, sequence in enumerate(sequences) if not sequence), None)
    if empty is not None or not len(sequences):
        which = "none at all" if empty is None else f"an empty one at index {empty}"
        raise ValueError(f"Sequences must have at least one letter each, got {which}: leave empty ones out.")


def _begin_token(tokenizer: PreTrainedTokenizerBase) -> int:
    ids = (tokenizer.bos_token_id, tokenizer.eos_token_id)
    begin = next((token for token in ids if token is not None), None)
    if begin is None:
        raise ValueError(
            "The first token of a sequence is scored after a token that begins it, but this tokenizer has neither a "
            "bos_token nor an eos_token: pass begin_token_id."
        )
    return begin


def _batches(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    sequences: Sequence[str],
    begin: int | None,
    batch_tokens: int,
    progress: bool,
) -> Iterator[_Batch]:
    """The sequences as tokens, the longest first, padded on the right to at most ``batch_tokens`` together."""
    check_sequences(sequences)
    before = [] if begin is None else [begin]
    tokens = [[*before, *ids] for ids in tokenizer(list(sequences), add_special_tokens=False)["input_ids"]]
    order = sorted(range(len(tokens)), key=lambda place: -len(tokens[place]))
    with tqdm(total=len(order), disable=not progress, unit="sequence", leave=None) as bar:
        while order:
            longest = len(tokens[order[0]])
            size = max(1, batch_tokens // longest)
            places, order = order[:size], order[size:]
            lengths = [len(tokens[place]) for place in places]
            input_ids = torch.zeros(len(places), longest, dtype=torch.long)
            mask = torch.zeros(len(places), longest, dtype=torch.long)
            for row, place in enumerate(places):
                input_ids[row, : lengths[row]] = torch.tensor(tokens[place])
                mask[row, : lengths[row]] = 1
            yield _Batch(places, input_ids.to(model.device), mask.to(model.device), lengths)
            bar.update(len(places))


__all__ = ["embeddings", "log_likelihoods", "reverse_complement", "token_log_likelihoods"]
