"""Tokenizers built in code as stock fast tokenizers: what they save, `AutoTokenizer` loads without this package."""

from collections.abc import Iterable

from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

SPECIAL_TOKENS = {
    "pad_token": "<pad>",
    "unk_token": "<unk>",
    "bos_token": "<s>",
    "eos_token": "</s>",
    "mask_token": "<mask>",
}


def byte_tokenizer(*, split_special_tokens: bool = False) -> PreTrainedTokenizerFast:
    """One token per UTF-8 byte: 5 special tokens and 256 bytes, 261 in all. Keeps character offsets.

    Args:
        split_special_tokens: read a "<mask>" in the text as six bytes, so that every byte of any text is one token.

    >>> tokenizer = byte_tokenizer()
    >>> len(tokenizer), tokenizer("né").input_ids, tokenizer.decode(tokenizer("né").input_ids)
    (261, [82, 132, 107], 'né')
    """
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {token: i for i, token in enumerate([*SPECIAL_TOKENS.values(), *alphabet])}
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.decoder = decoders.ByteLevel()
    return _wrapped(tokenizer, split_special_tokens=split_special_tokens)


def train_bpe_tokenizer(
    texts: Iterable[str], vocab_size: int, *, show_progress: bool = True
) -> PreTrainedTokenizerFast:
    """A byte-level BPE tokenizer fitted to ``texts``, with the same five special tokens.

    Args:
        texts: the training texts, and only those.
        vocab_size: tokens wanted, the 261 of the byte tokenizer included.
        show_progress: draw a progress bar.

    Raises:
        ValueError: if ``vocab_size`` leaves no room for the bytes and the special tokens.
    """
    smallest = len(SPECIAL_TOKENS) + 256
    if vocab_size < smallest:
        raise ValueError(f"vocab_size must be at least {smallest} (bytes and special tokens), got {vocab_size}.")
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=[AddedToken(token, special=True) for token in SPECIAL_TOKENS.values()],
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=show_progress,
    )
    tokenizer.train_from_iterator(texts, trainer)
    return _wrapped(tokenizer)


def _wrapped(tokenizer: Tokenizer, *, split_special_tokens: bool = False) -> PreTrainedTokenizerFast:
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        model_input_names=["input_ids", "attention_mask"],
        clean_up_tokenization_spaces=False,
        split_special_tokens=split_special_tokens,
        **SPECIAL_TOKENS,
    )
