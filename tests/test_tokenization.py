"""Tokenizers: round trips, offsets, and loading without this package."""

import json
import random
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from transformers import AutoTokenizer, DataCollatorForTokenClassification, PreTrainedTokenizerFast

from modeling_dlr.tasks import load_task
from modeling_dlr.tasks.listops import VOCABULARY
from modeling_dlr.tokenization import SPECIAL_TOKENS, byte_tokenizer, symbol_tokenizer, train_bpe_tokenizer

TRAINING_TEXTS = ["the cat sat on the mat", "the dog sat on the cat", "Grüße an die Katze", "x = x + 1\n"] * 5

TEXTS = {
    "nothing": "",
    "one letter": "a",
    "words": "the cat sat",
    "spaces": "  two  spaces, \ttabs\r\n and a line\n",
    "umlauts": "Grüße, Größe",
    "another script": "世界 — мир",
    "emoji with joiners": "👩‍👩‍👧 and 🇩🇪",
    "combining accents": "e\u0301 is not é",
    "control characters": "\x00\x01\x7f\u2028",
    "punctuation": " don't , he said . ",
}


def load(folder: Path) -> PreTrainedTokenizerFast:
    """The tokenizer that AutoTokenizer loads without running code of the folder."""
    tokenizer = AutoTokenizer.from_pretrained(folder, trust_remote_code=False)
    assert isinstance(tokenizer, PreTrainedTokenizerFast)
    assert type(tokenizer).__module__.startswith("transformers.")
    return tokenizer


def trained(**options: Any) -> PreTrainedTokenizerFast:
    return train_bpe_tokenizer(TRAINING_TEXTS, 280, show_progress=False, **options)


# Those that read a text as it is, and those that put a space before it.
EXACT: dict[str, Callable[[], PreTrainedTokenizerFast]] = {
    "bytes": partial(byte_tokenizer, add_prefix_space=False),
    "bytes and nothing else": partial(byte_tokenizer, add_prefix_space=False, split_special_tokens=True),
    "BPE": partial(trained, add_prefix_space=False),
}
SPACED: dict[str, Callable[[], PreTrainedTokenizerFast]] = {
    "spaced bytes": byte_tokenizer,
    "bytes with merged spaces": partial(byte_tokenizer, merge_spaces=True),
    "spaced bytes and nothing else": partial(byte_tokenizer, split_special_tokens=True),
    "spaced BPE": trained,
}
TOKENIZERS = EXACT | SPACED

by_exact = pytest.mark.parametrize("build", EXACT.values(), ids=EXACT.keys())
by_spaced = pytest.mark.parametrize("build", SPACED.values(), ids=SPACED.keys())
by_tokenizer = pytest.mark.parametrize("build", TOKENIZERS.values(), ids=TOKENIZERS.keys())
by_text = pytest.mark.parametrize("text", TEXTS.values(), ids=TEXTS.keys())


@by_tokenizer
def test_pairs_are_separated(build: Callable[[], PreTrainedTokenizerFast], tmp_path: Path):
    """ "ab" and "c" differ from "a" and "bc"; offsets count from the start of each text, also after saving."""
    tokenizer = build()
    tokenizer.save_pretrained(tmp_path)
    for one in (tokenizer, load(tmp_path)):
        pair = one("ab", "cat", return_offsets_mapping=True)
        apart = one("ab").input_ids, one("cat").input_ids
        assert pair.input_ids == [*apart[0], one.eos_token_id, *apart[1]]
        assert pair.sequence_ids() == [0] * len(apart[0]) + [None] + [1] * len(apart[1])
        assert pair.offset_mapping[-1][1] == 3


@by_exact
@by_text
def test_round_trip(build: Callable[[], PreTrainedTokenizerFast], text: str):
    """Decoding gives every text back, byte for byte."""
    tokenizer = build()
    assert tokenizer.decode(tokenizer(text).input_ids) == text
    assert tokenizer.decode(tokenizer(text).input_ids, skip_special_tokens=True) == text


@by_text
def test_one_token_per_byte(text: str):
    """Without a space before the text there is one token per UTF-8 byte, the same for the same byte, and no other."""
    tokenizer = byte_tokenizer(add_prefix_space=False)
    ids = tokenizer(text).input_ids
    of_byte = dict(zip(text.encode(), ids, strict=True))
    assert [of_byte[byte] for byte in text.encode()] == ids
    assert len(set(of_byte.values())) == len(of_byte)
    assert not set(ids) & set(tokenizer.all_special_ids)


@by_spaced
@by_text
def test_a_space_before_the_text(build: Callable[[], PreTrainedTokenizerFast], text: str):
    """A text is read as if it began with a space, which belongs to the first character."""
    tokenizer = build()
    spaced = f" {text}" if text and not text.startswith(" ") else text
    encoded, expected = (tokenizer(each, return_offsets_mapping=True) for each in (text, spaced))
    assert encoded.input_ids == expected.input_ids
    assert tokenizer.decode(encoded.input_ids) == spaced
    shift = len(spaced) - len(text)
    moved = [(max(start - shift, 0), max(end - shift, shift)) for start, end in expected.offset_mapping]
    assert encoded.offset_mapping == moved


def test_no_space_within_a_text():
    """The text after a special token gets no space."""
    tokenizer = byte_tokenizer()
    assert tokenizer.decode(tokenizer("the c<mask>t").input_ids) == " the c<mask>t"


SENTENCES = [["New", "York", "is", "in", "Größe", "世界", "!"], ["EU", "'s", "x-y"], ["a"]]


WITH_WORDS = {"bytes": byte_tokenizer, "merged spaces": partial(byte_tokenizer, merge_spaces=True), "BPE": trained}
by_words = pytest.mark.parametrize("build", WITH_WORDS.values(), ids=WITH_WORDS.keys())


@by_words
@pytest.mark.parametrize("saved", [False, True], ids=["built", "saved"])
def test_words_are_read_as_the_text(build: Callable[[], PreTrainedTokenizerFast], saved: bool, tmp_path: Path):
    """A list of words has the ids of its text: alone, in batches, in pairs, padded and truncated."""
    tokenizer = build()
    if saved:
        tokenizer.save_pretrained(tmp_path)
        tokenizer = load(tmp_path)
    texts = [" ".join(words) for words in SENTENCES]
    for words, text in zip(SENTENCES, texts, strict=True):
        assert tokenizer(words, is_split_into_words=True).input_ids == tokenizer(text).input_ids
    options: list[dict[str, Any]] = [{"padding": True}, {"truncation": True, "max_length": 9}]
    options.append({"truncation": True, "max_length": 7, "stride": 2, "return_overflowing_tokens": True})
    for option in options:
        assert dict(tokenizer(SENTENCES, is_split_into_words=True, **option)) == dict(tokenizer(texts, **option))
        if "stride" not in option:
            pair = tokenizer(SENTENCES, SENTENCES[::-1], is_split_into_words=True, **option)
            assert dict(pair) == dict(tokenizer(texts, texts[::-1], **option))


@by_words
def test_words_and_offsets(build: Callable[[], PreTrainedTokenizerFast]):
    """Every token, the space included, has the id of its word; offsets are of the word's characters and cover it."""
    tokenizer = build()
    for words in SENTENCES:
        encoded = tokenizer(words, is_split_into_words=True, return_offsets_mapping=True)
        tokens_of = [[i for i, word in enumerate(encoded.word_ids()) if word == place] for place in range(len(words))]
        assert [i for places in tokens_of for i in places] == list(range(len(encoded.input_ids)))
        for word, places in zip(words, tokens_of, strict=True):
            assert tokenizer.decode([encoded.input_ids[i] for i in places]) == f" {word}"
            spans = [encoded.offset_mapping[i] for i in places]
            assert {at for start, end in spans for at in range(start, end)} == set(range(len(word)))
            assert spans == sorted(spans)


def test_merged_spaces():
    """A space and the next byte are one token; the first token has the first byte."""
    tokenizer = byte_tokenizer(merge_spaces=True)
    assert len(tokenizer) == 516
    encoded = tokenizer("a  bé", return_offsets_mapping=True)
    assert tokenizer.convert_ids_to_tokens(encoded.input_ids) == ["Ġa", "Ġ", "Ġb", "Ã", "©"]
    assert encoded.offset_mapping == [(0, 1), (1, 2), (2, 4), (4, 5), (4, 5)]
    words = tokenizer(["New", "York"], is_split_into_words=True)
    assert words.word_ids() == [0, 0, 0, 1, 1, 1, 1]
    assert words.input_ids == tokenizer("New York").input_ids


def test_words_that_are_characters():
    """Without the space, words are joined, each with its id."""
    encoded = byte_tokenizer(add_prefix_space=False)(["世", "a"], is_split_into_words=True)
    assert encoded.input_ids == byte_tokenizer(add_prefix_space=False)("世a").input_ids
    assert encoded.word_ids() == [0, 0, 0, 1]


@pytest.mark.parametrize("every", [False, True], ids=["first token", "every token"])
def test_labels_of_words(every: bool):
    """In transformers' script for token classification, the label of a word is on its space, or on all tokens."""
    tokenizer = byte_tokenizer()
    tags = [[3, 1, 0, 0, 2, 4, 0], [1, 0, 2], [4]]
    features = []
    for words, labels in zip(SENTENCES, tags, strict=True):
        encoded = tokenizer(words, is_split_into_words=True, truncation=True)
        word_ids = encoded.word_ids()
        aligned = [
            labels[word] if every or at == 0 or word_ids[at - 1] != word else -100 for at, word in enumerate(word_ids)
        ]
        features.append({**encoded, "labels": aligned})
    batch = DataCollatorForTokenClassification(tokenizer)(features)
    for ids, row, words, labels in zip(batch["input_ids"], batch["labels"], SENTENCES, tags, strict=True):
        widths = [1 + len(word.encode()) for word in words]
        expected = [
            (label if every or at == 0 else -100) for label, width in zip(labels, widths, strict=True)
            for at in range(width)
        ]  # fmt: skip
        assert row.tolist() == expected + [-100] * (len(row) - len(expected))
        assert (ids[: sum(widths)][row[: sum(widths)] != -100][0]).item() == tokenizer.convert_tokens_to_ids("Ġ")


def test_every_byte_has_a_token():
    """There are 256 tokens of bytes after the five special ones, and ids stay the same from call to call."""
    tokenizer = byte_tokenizer()
    assert len(tokenizer) == 261
    assert tokenizer.get_vocab() == byte_tokenizer().get_vocab()
    every_byte = "".join(chr(code) for code in range(0x110000) if not 0xD800 <= code <= 0xDFFF and code % 61 == 0)
    lead = "".join(chr(code) for code in range(0x800))
    used = set(tokenizer(every_byte + lead).input_ids)
    impossible_in_utf8 = {0xC0, 0xC1, *range(0xF5, 0x100)}
    assert used <= set(range(5, 261))
    assert len(used) == 256 - len(impossible_in_utf8)


@by_exact
@by_text
def test_offsets(build: Callable[[], PreTrainedTokenizerFast], text: str):
    """Offsets are of characters, in order, and together cover the text; a token within a character covers it."""
    tokenizer = build()
    encoded = tokenizer(text, return_offsets_mapping=True)
    covered = set()
    for token, (start, end) in zip(encoded.input_ids, encoded.offset_mapping, strict=True):
        covered |= set(range(start, end))
        assert tokenizer.decode([token]) == text[start:end] or len(text[start:end].encode()) > 1
    assert covered == set(range(len(text)))
    assert encoded.offset_mapping == sorted(encoded.offset_mapping)


@by_exact
def test_special_tokens(build: Callable[[], PreTrainedTokenizerFast]):
    """The five special tokens have the first five ids, padding first, and are left out of decoded text on demand."""
    tokenizer = build()
    names = ["pad_token", "unk_token", "bos_token", "eos_token", "mask_token"]
    assert list(SPECIAL_TOKENS) == names
    assert [getattr(tokenizer, f"{name}_id") for name in names] == [0, 1, 2, 3, 4]
    ids = tokenizer("a").input_ids
    assert tokenizer.decode([2, *ids, 3, 0], skip_special_tokens=True) == "a"


@pytest.mark.parametrize(("split", "length"), [(False, 1), (True, 6)], ids=["one token", "six bytes"])
def test_special_tokens_in_a_text(split: bool, length: int, tmp_path: Path):
    """A <mask> in a text is the special token, unless the tokenizer reads bytes only; saving keeps which."""
    built = byte_tokenizer(split_special_tokens=split, add_prefix_space=False)
    built.save_pretrained(tmp_path)
    for tokenizer in (built, load(tmp_path)):
        assert len(tokenizer("<mask>").input_ids) == length


@by_exact
def test_padding(build: Callable[[], PreTrainedTokenizerFast]):
    """A padded batch holds what models of this library read, and nothing else."""
    batch = build()(["a", "the cat sat"], padding=True, return_tensors="pt")
    assert set(batch) == {"input_ids", "attention_mask"}
    assert batch["input_ids"].shape == batch["attention_mask"].shape
    assert (batch["input_ids"][batch["attention_mask"] == 0] == 0).all()
    assert batch["attention_mask"][0].sum() == 1


@by_tokenizer
def test_saved_tokenizer_loads_without_this_package(build: Callable[[], PreTrainedTokenizerFast], tmp_path: Path):
    """AutoTokenizer loads the folder as a stock fast tokenizer, without remote code, and it does the same."""
    tokenizer = build()
    tokenizer.model_max_length = 63
    tokenizer.save_pretrained(tmp_path)
    assert "auto_map" not in json.loads((tmp_path / "tokenizer_config.json").read_text(encoding="utf-8"))
    loaded = load(tmp_path)
    assert loaded.model_max_length == 63
    assert loaded.special_tokens_map == tokenizer.special_tokens_map
    for text in TEXTS.values():
        assert loaded(text, return_offsets_mapping=True) == tokenizer(text, return_offsets_mapping=True)
        assert loaded.decode(loaded(text).input_ids) == tokenizer.decode(tokenizer(text).input_ids)


@by_exact
def test_long_text(build: Callable[[], PreTrainedTokenizerFast]):
    """A hundred thousand bytes are tokenized within seconds, and come back."""
    tokenizer = build()
    text = ("the cat sat on the mat, Grüße; " * 4000)[:98_000]
    started = time.process_time()
    ids = tokenizer(text).input_ids
    assert time.process_time() - started < 5
    assert tokenizer.decode(ids) == text
    assert len(tokenizer(text, truncation=True, max_length=1000).input_ids) == 1000


def test_bpe_learns_from_the_texts_alone():
    """Every merged token is part of a training text, and other texts have more tokens."""
    tokenizer = trained()
    assert len(tokenizer) == 280
    in_letters = ["".join(byte_tokenizer().tokenize(text)) for text in TRAINING_TEXTS]
    merged = tokenizer.convert_ids_to_tokens(list(range(261, 280)))
    assert all(len(token) > 1 and any(token in text for text in in_letters) for token in merged)
    assert len(tokenizer("the cat sat").input_ids) < len(tokenizer("zzz qqq www").input_ids) == 12


def test_bpe_reads_its_texts_once():
    """The texts may be a stream: they are read once, and the same texts give the same tokenizer."""
    streamed = train_bpe_tokenizer(iter(TRAINING_TEXTS), 280, show_progress=False)
    assert streamed.get_vocab() == trained().get_vocab()


@pytest.mark.parametrize(
    ("texts", "error", "says"),
    [
        ("the cat", TypeError, r"list of texts.* 'the cat'"),
        ([], ValueError, r"at least one text.*byte_tokenizer"),
        (iter(()), ValueError, "at least one text, got none"),
        (["the cat", None], TypeError, "strings, got None at index 1"),
        ([None, "the cat"], TypeError, "strings, got None at index 0"),
    ],
    ids=["one string", "nothing", "an empty stream", "an empty cell", "an empty first cell"],
)
def test_bpe_needs_texts(texts: Any, error: type[Exception], says: str):
    """A single string and an empty list are refused."""
    with pytest.raises(error, match=says):
        train_bpe_tokenizer(texts, 300, show_progress=False)


def test_bpe_of_bytes_only():
    """The smallest vocabulary is that of the byte tokenizer."""
    smallest = train_bpe_tokenizer(TRAINING_TEXTS, 261, show_progress=False)
    assert smallest.get_vocab().keys() == byte_tokenizer().get_vocab().keys()


def test_bpe_needs_every_byte():
    """A vocabulary that is too small for all bytes is refused."""
    with pytest.raises(ValueError, match=r"at least 261 .* got 260"):
        train_bpe_tokenizer(TRAINING_TEXTS, 260)


LISTOPS_SPECIAL = {"pad_token": "<pad>", "unk_token": "<unk>", "eos_token": "<eos>"}


def listops_tokenizer(task: str) -> PreTrainedTokenizerFast:
    """As its data set has it: plain ListOps ends every expression, that of sub-trees needs no end."""
    if task == "listops":
        return symbol_tokenizer(VOCABULARY, special_tokens=LISTOPS_SPECIAL, append_eos=True)
    return symbol_tokenizer([symbol for symbol in VOCABULARY if symbol != "<eos>"])


@pytest.mark.parametrize("task", ["listops", "listops_subtrees"])
def test_symbols_are_those_of_the_task(task: str, tmp_path: Path):
    """The tokenizer of 18 symbols gives the rows of ListOps back from their text, padding and mask included."""
    symbols = symbol_tokenizer(VOCABULARY, special_tokens=LISTOPS_SPECIAL, append_eos=task == "listops")
    assert len(symbols) == 18
    data = load_task(
        task, split="test", num_examples=5, min_length=4, max_length=40, max_depth=4, max_args=4, cache_dir=tmp_path
    )
    for row in data:
        text = symbols.decode(row["input_ids"], skip_special_tokens=True)
        assert text.startswith("[")
        again = symbols(text, padding="max_length", max_length=40)
        assert again.input_ids == row["input_ids"].tolist()
        assert again.attention_mask == row["attention_mask"].tolist()


@pytest.mark.parametrize(("task", "size"), [("listops", 18), ("listops_subtrees", 17)])
def test_saved_symbols_load_without_this_package(task: str, size: int, tmp_path: Path):
    """AutoTokenizer loads a tokenizer of symbols as a stock one: same ids, offsets, special tokens, mask."""
    tokenizer = listops_tokenizer(task)
    tokenizer.save_pretrained(tmp_path)
    loaded = load(tmp_path)
    assert len(loaded) == len(tokenizer) == size
    assert loaded.special_tokens_map == tokenizer.special_tokens_map
    texts = ["[SM  3\t[MED 4 47 X 1 X", "8", "[MIN"]
    for each in (tokenizer, loaded):
        batch = each(texts, padding=True, return_offsets_mapping=True)
        assert set(batch) == {"input_ids", "attention_mask", "offset_mapping"}
        ids, words = batch.input_ids[0], texts[0].split()
        known = [word if word in VOCABULARY else "<unk>" for word in words]
        assert each.convert_ids_to_tokens(ids) == known + ["<eos>"] * (task == "listops")
        starts = batch.offset_mapping[0][: len(words)]
        assert [texts[0][start:end] for start, end in starts] == words
        assert sum(batch.attention_mask[1]) == len(ids) - len(words) + 1
        assert each.decode(ids, skip_special_tokens=True) == "[SM 3 [MED 4 X 1 X"


def test_symbols_that_are_masked():
    """A given mask token is a token, also next to a symbol; otherwise it is unknown."""
    special = {"unk_token": "?", "mask_token": "_"}
    tokenizer = symbol_tokenizer(["?", "_", "a", "b"], special_tokens=special)
    assert tokenizer("a _ b <mask>").input_ids == [2, 1, 3, 0]
    assert tokenizer.mask_token_id == 1
    assert tokenizer.pad_token is None


BASES = ["<pad>", "<unk>", "</s>", *"ACGT"]
ROLES = {"pad_token": "<pad>", "unk_token": "<unk>", "eos_token": "</s>"}


def test_symbols_without_separators(tmp_path: Path):
    """Every character is a symbol, unknown ones one by one, in either case, and white space none; saving keeps it."""
    built = symbol_tokenizer(BASES, special_tokens=ROLES, separated=False, case="upper", append_eos=True)
    built.save_pretrained(tmp_path)
    for tokenizer in (built, load(tmp_path)):
        text = "ACgtN\nß-ac"
        encoded = tokenizer(text, return_offsets_mapping=True)
        assert tokenizer.convert_ids_to_tokens(encoded.input_ids) == [*"ACGT", *["<unk>"] * 3, *"AC", "</s>"]
        characters = [i for i, character in enumerate(text) if character != "\n"]
        assert encoded.offset_mapping == [*((i, i + 1) for i in characters), (0, 0)]
        words = tokenizer(["ACg", "tN"], is_split_into_words=True)
        assert words.input_ids == tokenizer("ACgtN").input_ids
        assert words.word_ids() == [0, 0, 0, 1, 1, None]
        assert tokenizer.decode(encoded.input_ids, skip_special_tokens=True) == "ACGTAC"


@pytest.mark.parametrize(("case", "known"), [(None, "aB"), ("lower", "ab"), ("upper", "AB")])
@pytest.mark.parametrize("separated", [False, True])
def test_case_of_symbols(case: Any, known: str, separated: bool):
    """Texts are brought into the case of the symbols, special tokens are not; offsets count the text's characters."""
    tokenizer = symbol_tokenizer(
        ["<Unk>", *known, "ß"], special_tokens={"unk_token": "<Unk>"}, case=case, separated=separated
    )
    encoded = tokenizer("a B ß <Unk> ẞ", return_offsets_mapping=True)
    assert encoded.input_ids == [1, 2, 3, 0, 0]
    assert encoded.offset_mapping == [(0, 1), (2, 3), (4, 5), (6, 11), (12, 13)]


def test_symbols_of_one_alphabet():
    """Known and unknown letters at random, against a dictionary."""
    tokenizer = symbol_tokenizer(BASES, special_tokens=ROLES, separated=False)
    draw = random.Random(0)
    for _ in range(50):
        text = "".join(draw.choices("ACGTNacgté世 \t", k=draw.randrange(30)))
        expected = [BASES.index(letter) if letter in "ACGT" else 1 for letter in text if not letter.isspace()]
        assert tokenizer(text).input_ids == expected


SYMBOLS_REFUSED = {
    "twice": (["<unk>", "a", "a"], {"unk_token": "<unk>"}, False, r"unique and without spaces, got \['a'\]"),
    "space": (["<unk>", "a b"], {"unk_token": "<unk>"}, False, r"without spaces.*\['a b'\]"),
    "nothing": (["<unk>", ""], {"unk_token": "<unk>"}, False, r"got \[''\]"),
    "not a symbol": (["a"], {"unk_token": "<unk>"}, False, r"unk_token.*'<unk>'"),
    "no such role": (["a"], {"unk_token": "a", "end": "a"}, False, r"some of pad_token, .* got .*'end'"),
    "none for the unknown": (["a"], {"pad_token": "a"}, False, "must contain unk_token, got"),
    "no end to append": (["a"], {"unk_token": "a"}, True, "eos_token and unk_token"),
}


@pytest.mark.parametrize(
    ("symbols", "special", "append_eos", "says"), SYMBOLS_REFUSED.values(), ids=SYMBOLS_REFUSED.keys()
)
def test_symbols_refused(symbols: list[str], special: dict[str, str], append_eos: bool, says: str):
    """Symbols that cannot occur, and invalid special tokens, are refused with the cure."""
    with pytest.raises(ValueError, match=says):
        symbol_tokenizer(symbols, special_tokens=special, append_eos=append_eos)


@pytest.mark.parametrize(
    ("symbols", "options", "says"),
    [
        (["<unk>", "ATG"], {"separated": False}, r"\['ATG'\].*separated=True"),
        (["<unk>", "a", "B"], {"case": "upper"}, r"case='upper'.*\['a'\]"),
        (["<unk>", "a"], {"case": "title"}, "'lower', 'upper'.* got 'title'"),
    ],
    ids=["several characters", "the other case", "no such case"],
)
def test_symbols_that_cannot_occur(symbols: list[str], options: dict[str, Any], says: str):
    with pytest.raises(ValueError, match=says):
        symbol_tokenizer(symbols, special_tokens={"unk_token": "<unk>"}, **options)
