"""Tokenizers built in code as stock fast tokenizers: what they save, `AutoTokenizer` loads without this package."""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence

from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, processors, trainers
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

    Of a pair of texts, ``</s>`` ends the first.

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
    tokenizer.post_processor = _pairs(tokenizer)
    return _wrapped(tokenizer, SPECIAL_TOKENS, split_special_tokens=split_special_tokens)


def symbol_tokenizer(
    symbols: Sequence[str],
    *,
    special_tokens: Mapping[str, str] = {"pad_token": "<pad>", "unk_token": "<unk>"},
    append_eos: bool = False,
) -> PreTrainedTokenizerFast:
    """One token per symbol, for texts of symbols with spaces between them. Keeps character offsets.

    Args:
        symbols: the vocabulary, special tokens included; a symbol's place is its id.
        special_tokens: which symbols are ``pad_token``, ``unk_token``, ``bos_token``, ``eos_token`` or ``mask_token``.
            ``unk_token``, which stands for every unknown symbol, is needed.
        append_eos: end every text with the ``eos_token``.

    Raises:
        ValueError: for a symbol that is empty, holds a space or is there twice, and for special tokens that are not
            symbols, or have no such name, or leave none for what is unknown or for the end.

    >>> tokenizer = symbol_tokenizer(["<pad>", "<unk>", "X", "[MIN", "[MAX", *"0123456789"])
    >>> tokenizer("[MIN 3 [MAX 4 7 X X").input_ids, tokenizer.decode([3, 8, 2])
    ([3, 8, 4, 9, 12, 2, 2], '[MIN 3 X')
    """
    _check_symbols(symbols, special_tokens, append_eos)
    vocabulary = {symbol: i for i, symbol in enumerate(symbols)}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token=special_tokens["unk_token"]))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    if append_eos:
        end = special_tokens["eos_token"]
        tokenizer.post_processor = processors.TemplateProcessing(f"$A {end}", special_tokens=[(end, vocabulary[end])])
    return _wrapped(tokenizer, special_tokens)


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
    tokenizer.post_processor = _pairs(tokenizer)
    return _wrapped(tokenizer, SPECIAL_TOKENS)


def _check_symbols(symbols: Sequence[str], special_tokens: Mapping[str, str], append_eos: bool) -> None:
    wrong = [symbol for symbol, count in Counter(symbols).items() if count > 1 or symbol.split() != [symbol]]
    if wrong:
        raise ValueError(f"Symbols must be words without spaces, each there once, got {wrong}: rename or drop these.")
    unknown = {role: token for role, token in special_tokens.items() if token not in symbols}
    if unknown or not special_tokens.keys() <= SPECIAL_TOKENS.keys():
        raise ValueError(
            f"special_tokens must give symbols to some of {', '.join(SPECIAL_TOKENS)}, got {dict(special_tokens)}: add "
            f"{', '.join(map(repr, unknown.values())) or 'nothing else'} to the symbols."
        )
    needed = {"unk_token", "eos_token"} if append_eos else {"unk_token"}
    if not needed <= special_tokens.keys():
        raise ValueError(
            f"special_tokens must name {' and '.join(sorted(needed))}, got {dict(special_tokens)}: say which symbol "
            "it is."
        )


def _pairs(tokenizer: Tokenizer) -> processors.TemplateProcessing:
    """Nothing is added to one text; between two there is an end of the first."""
    end = SPECIAL_TOKENS["eos_token"]
    return processors.TemplateProcessing("$A", f"$A {end} $B:1", [(end, tokenizer.token_to_id(end))])


def _wrapped(
    tokenizer: Tokenizer, special_tokens: Mapping[str, str], *, split_special_tokens: bool = False
) -> PreTrainedTokenizerFast:
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        model_input_names=["input_ids", "attention_mask"],
        clean_up_tokenization_spaces=False,
        split_special_tokens=split_special_tokens,
        **special_tokens,
    )
