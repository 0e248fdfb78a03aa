"""Tokenizers for bytes, symbols and BPE, built as fast tokenizers of transformers.

`AutoTokenizer` loads a saved one without this package. In a folder with a model, pass ``trust_remote_code=True``,
because transformers asks about the model's code first.
"""

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import chain
from typing import Literal

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from transformers import PreTrainedTokenizerFast

SPECIAL_TOKENS = {
    "pad_token": "<pad>",
    "unk_token": "<unk>",
    "bos_token": "<s>",
    "eos_token": "</s>",
    "mask_token": "<mask>",
}


def byte_tokenizer(
    *, add_prefix_space: bool = True, merge_spaces: bool = False, split_special_tokens: bool = False
) -> PreTrainedTokenizerFast:
    """Build a byte tokenizer: a space before the text, then one token per UTF-8 byte.

    The vocabulary has 5 special tokens and 256 bytes, 261 tokens in all. The tokenizer keeps character offsets. In a
    pair of texts, ``</s>`` ends the first text.

    With ``is_split_into_words=True`` every word begins with a space, so a list of words gives the same tokens as the
    joined text. The space has the word's id and the offsets of the word's first character. A script that labels only
    the first token of every word would label this space: label all tokens instead, or set ``merge_spaces=True``.

    Args:
        add_prefix_space: add a space before every text that does not begin with one, as in other tokenizers of
            transformers. Without it, every token is one byte of the text, and words are joined without a space. Use
            False for labels of every byte, and for words that are single characters.
        merge_spaces: merge a space and the byte after it into one token, which gives 516 tokens in all. The first token
            of a word then holds its first byte, which
            `pipeline("token-classification", aggregation_strategy="first")` needs.
        split_special_tokens: read "<mask>" in a text as six bytes, so that every byte of any text is one token.

    >>> tokenizer = byte_tokenizer()
    >>> len(tokenizer), tokenizer("né").input_ids, tokenizer.decode(tokenizer("né").input_ids)
    (261, [225, 82, 132, 107], ' né')
    >>> tokenizer(["New", "York"], is_split_into_words=True).input_ids == tokenizer("New York").input_ids
    True
    >>> byte_tokenizer(add_prefix_space=False)("né").input_ids
    [82, 132, 107]
    """
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    space = pre_tokenizers.ByteLevel(add_prefix_space=False).pre_tokenize_str(" ")[0][0]
    merges = [(space, byte) for byte in alphabet if byte != space] if merge_spaces else []
    tokens = [*SPECIAL_TOKENS.values(), *alphabet, *map("".join, merges)]
    tokenizer = Tokenizer(models.BPE(vocab={token: i for i, token in enumerate(tokens)}, merges=merges))
    tokenizer.pre_tokenizer = _bytes(add_prefix_space, use_regex=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.post_processor = _pairs(tokenizer)
    return _wrapped(tokenizer, SPECIAL_TOKENS, split_special_tokens=split_special_tokens)


def evo_tokenizer() -> PreTrainedTokenizerFast:
    """Build the tokenizer of the Evo-1 models: one token per UTF-8 byte, whose id is the byte, and no special token.

    The vocabulary has 512 tokens, of which those from 256 on are never used. Token 0 is ``<eod>``, the end of a
    document and its begin, and token 1 is ``<pad>``: the bytes 0 and 1 are read as these. Lower case and upper case are
    different tokens. The tokenizer keeps character offsets, and pads batches.

    >>> tokenizer = evo_tokenizer()
    >>> tokenizer("ACGTacgt").input_ids, tokenizer.decode([65, 67, 71, 84])
    ([65, 67, 71, 84, 97, 99, 103, 116], 'ACGT')
    >>> len(tokenizer), tokenizer.eos_token_id, tokenizer.pad_token_id
    (512, 0, 1)
    """
    special = {0: "<eod>", 1: "<pad>"}
    vocabulary = {special.get(byte, letter): byte for byte, letter in enumerate(_letters_of_bytes())}
    vocabulary |= {f"<unused {i}>": i for i in range(256, 512)}
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=[]))
    tokenizer.normalizer = normalizers.Sequence([normalizers.Replace(chr(i), token) for i, token in special.items()])
    tokenizer.add_special_tokens([AddedToken(token, special=True, normalized=True) for token in special.values()])
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokens = {role: AddedToken(token, special=True, normalized=True) for role, token in _EVO_ROLES.items()}
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        model_input_names=["input_ids", "attention_mask"],
        clean_up_tokenization_spaces=False,
        **tokens,
    )


_EVO_ROLES = {"bos_token": "<eod>", "eos_token": "<eod>", "pad_token": "<pad>"}


def _letters_of_bytes() -> list[str]:
    """The letter by which `ByteLevel` writes each byte: printable ones of Latin-1 as they are, others from 256 on."""
    printable = {*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)}
    others = iter(range(256, 512))
    return [chr(byte) if byte in printable else chr(next(others)) for byte in range(256)]


def symbol_tokenizer(
    symbols: Sequence[str],
    *,
    special_tokens: Mapping[str, str] = {"pad_token": "<pad>", "unk_token": "<unk>"},
    append_eos: bool = False,
    separated: bool = True,
    case: Literal["lower", "upper"] | None = None,
) -> PreTrainedTokenizerFast:
    """Build a tokenizer with one token per symbol, for texts with or without spaces between symbols.

    The tokenizer keeps character offsets.

    Args:
        symbols: the vocabulary, special tokens included; a symbol's index is its id.
        special_tokens: which symbols are ``pad_token``, ``unk_token``, ``bos_token``, ``eos_token`` or ``mask_token``.
            ``unk_token`` is required; it replaces every unknown symbol.
        append_eos: end every text with the ``eos_token``.
        separated: whether white space separates the symbols. If False, every character except white space is a symbol,
            as in DNA and proteins.
        case: convert texts to the case of the symbols first.

    Raises:
        ValueError: for a symbol that is empty, contains a space, occurs twice, is in the other ``case``, or has several
            characters although ``separated`` is False; for special tokens that are not symbols or have an unknown
            name; and for a missing ``unk_token``, or a missing ``eos_token`` if ``append_eos`` is True.

    >>> tokenizer = symbol_tokenizer(["<pad>", "<unk>", "X", "[MIN", "[MAX", *"0123456789"])
    >>> tokenizer("[MIN 3 [MAX 4 7 X X").input_ids, tokenizer.decode([3, 8, 2])
    ([3, 8, 4, 9, 12, 2, 2], '[MIN 3 X')
    >>> bases = symbol_tokenizer(["<pad>", "<unk>", *"ACGT"], separated=False, case="upper")
    >>> bases("ACgtN").input_ids, bases.decode([2, 3, 4])
    ([2, 3, 4, 5, 1], 'ACG')
    """
    _check_special_tokens(symbols, special_tokens, append_eos)
    _check_symbols(symbols, set(special_tokens.values()), separated, case)
    vocabulary = {symbol: i for i, symbol in enumerate(symbols)}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token=special_tokens["unk_token"]))
    if case is not None:
        tokenizer.normalizer = _in_case(symbols, case)
    spaces = pre_tokenizers.WhitespaceSplit()
    tokenizer.pre_tokenizer = spaces
    if not separated:
        tokenizer.pre_tokenizer = pre_tokenizers.Sequence([spaces, pre_tokenizers.Split(Regex("."), "isolated")])
        tokenizer.decoder = decoders.Fuse()
    if append_eos:
        end = special_tokens["eos_token"]
        tokenizer.post_processor = processors.TemplateProcessing(f"$A {end}", special_tokens=[(end, vocabulary[end])])
    return _wrapped(tokenizer, special_tokens)


def train_bpe_tokenizer(
    texts: Iterable[str], vocab_size: int, *, add_prefix_space: bool = True, show_progress: bool = True
) -> PreTrainedTokenizerFast:
    """Train a byte-level BPE tokenizer on ``texts``, with the five special tokens of `byte_tokenizer`.

    A space is added before texts and words, as in `byte_tokenizer`.

    Args:
        texts: the training texts; do not include validation or test texts.
        vocab_size: size of the vocabulary, including the 261 tokens of the byte tokenizer.
        add_prefix_space: add a space before every text that does not begin with one; without it, words are joined
            without a space.
        show_progress: show a progress bar.

    Raises:
        TypeError: if ``texts`` is a single string, or holds something that is no string.
        ValueError: if there are no texts, or if ``vocab_size`` is below 261, the bytes and special tokens.
    """
    if isinstance(texts, str):
        raise TypeError(f"texts must be a list of texts, got the string {texts[:40]!r}: give [text], or its lines.")
    smallest = len(SPECIAL_TOKENS) + 256
    if vocab_size < smallest:
        raise ValueError(f"vocab_size must be at least {smallest} (bytes and special tokens), got {vocab_size}.")
    texts = _checked(texts)
    first = next(texts, None)
    if first is None:
        raise ValueError("texts must contain at least one text, got none: byte_tokenizer() needs no texts.")
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = _bytes(add_prefix_space, use_regex=True)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=[AddedToken(token, special=True) for token in SPECIAL_TOKENS.values()],
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=show_progress,
    )
    tokenizer.train_from_iterator(chain([first], texts), trainer)
    tokenizer.post_processor = _pairs(tokenizer)
    return _wrapped(tokenizer, SPECIAL_TOKENS)


def _checked(texts: Iterable[str]) -> Iterator[str]:
    """The texts one by one, refusing what is no text, as empty cells of tables are."""
    for index, text in enumerate(texts):
        if not isinstance(text, str):
            raise TypeError(f"texts must be strings, got {text!r} at index {index}: drop rows with empty cells.")
        yield text


def _bytes(add_prefix_space: bool, *, use_regex: bool) -> pre_tokenizers.PreTokenizer:
    """Split into bytes, with a space before the text; `ByteLevel` alone would also add one after special tokens."""
    bytes_of = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=use_regex)
    if not add_prefix_space:
        return bytes_of
    space = pre_tokenizers.Metaspace(replacement=" ", prepend_scheme="first", split=False)
    return pre_tokenizers.Sequence([space, bytes_of])


def _in_case(symbols: Sequence[str], case: Literal["lower", "upper"]) -> normalizers.Normalizer:
    """A normalizer that converts the letters of the symbols to their case."""
    letters = sorted(filter(_has_two_cases, set("".join(symbols))))
    matching = [letter for letter in letters if letter == getattr(letter, case)()]
    return normalizers.Sequence([normalizers.Replace(letter.swapcase(), letter) for letter in matching])


def _has_two_cases(letter: str) -> bool:
    """Whether the letter has another case that is one character; the capital of "ß" has two characters."""
    return len(letter.swapcase()) == 1 and letter != letter.swapcase()


def _check_symbols(symbols: Sequence[str], special: set[str], separated: bool, case: str | None) -> None:
    wrong = [symbol for symbol, count in Counter(symbols).items() if count > 1 or symbol.split() != [symbol]]
    if wrong:
        raise ValueError(f"Symbols must be unique and without spaces, got {wrong}: rename or drop these.")
    ordinary = [symbol for symbol in symbols if symbol not in special]
    long = [symbol for symbol in ordinary if len(symbol) > 1]
    if long and not separated:
        raise ValueError(f"With separated=False symbols must be single characters, got {long}: set separated=True.")
    if case not in (None, "lower", "upper"):
        raise ValueError(f"case must be 'lower', 'upper' or None, got {case!r}.")
    if case is None:
        return
    other = [symbol for symbol in ordinary if any(_has_two_cases(x) and x != getattr(x, case)() for x in symbol)]
    if other:
        raise ValueError(f"With case={case!r} the symbols {other} never occur: write them in this case.")


def _check_special_tokens(symbols: Sequence[str], special_tokens: Mapping[str, str], append_eos: bool) -> None:
    unknown = {role: token for role, token in special_tokens.items() if token not in symbols}
    if unknown or not special_tokens.keys() <= SPECIAL_TOKENS.keys():
        raise ValueError(
            f"special_tokens must map some of {', '.join(SPECIAL_TOKENS)} to symbols, got {dict(special_tokens)}: add "
            f"{', '.join(map(repr, unknown.values())) or 'nothing else'} to the symbols."
        )
    needed = {"unk_token", "eos_token"} if append_eos else {"unk_token"}
    if not needed <= special_tokens.keys():
        raise ValueError(
            f"special_tokens must contain {' and '.join(sorted(needed))}, got {dict(special_tokens)}: add the missing "
            "one."
        )


def _pairs(tokenizer: Tokenizer) -> processors.TemplateProcessing:
    """Add nothing to a single text; end the first text of a pair with ``</s>``."""
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
