"""Tokenizers: every text comes back, offsets point at it, and what is saved loads anywhere."""

import json
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from transformers import AutoTokenizer, PreTrainedTokenizerFast

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
    """What AutoTokenizer makes of a folder without running code from it: a stock fast tokenizer."""
    tokenizer = AutoTokenizer.from_pretrained(folder, trust_remote_code=False)
    assert isinstance(tokenizer, PreTrainedTokenizerFast)
    assert type(tokenizer).__module__.startswith("transformers.")
    return tokenizer


def trained() -> PreTrainedTokenizerFast:
    return train_bpe_tokenizer(TRAINING_TEXTS, 280, show_progress=False)


TOKENIZERS: dict[str, Callable[[], PreTrainedTokenizerFast]] = {
    "bytes": byte_tokenizer,
    "bytes and nothing else": lambda: byte_tokenizer(split_special_tokens=True),
    "BPE": trained,
}

by_tokenizer = pytest.mark.parametrize("build", TOKENIZERS.values(), ids=TOKENIZERS.keys())
by_text = pytest.mark.parametrize("text", TEXTS.values(), ids=TEXTS.keys())


@by_tokenizer
def test_pairs_have_an_end_between_them(build: Callable[[], PreTrainedTokenizerFast], tmp_path: Path):
    """So that "ab" and "c" are not "a" and "bc"; offsets count from the start of each, also after saving."""
    tokenizer = build()
    tokenizer.save_pretrained(tmp_path)
    for one in (tokenizer, load(tmp_path)):
        pair = one("ab", "cat", return_offsets_mapping=True)
        apart = one("ab").input_ids, one("cat").input_ids
        assert pair.input_ids == [*apart[0], one.eos_token_id, *apart[1]]
        assert pair.sequence_ids() == [0] * len(apart[0]) + [None] + [1] * len(apart[1])
        assert pair.offset_mapping[-1][1] == 3


@by_tokenizer
@by_text
def test_round_trip(build: Callable[[], PreTrainedTokenizerFast], text: str):
    """Every text comes back from its tokens, to the byte."""
    tokenizer = build()
    assert tokenizer.decode(tokenizer(text).input_ids) == text
    assert tokenizer.decode(tokenizer(text).input_ids, skip_special_tokens=True) == text


@by_text
def test_one_token_per_byte(text: str):
    """The byte tokenizer gives one token per UTF-8 byte, the same for the same byte, and adds none."""
    tokenizer = byte_tokenizer()
    ids = tokenizer(text).input_ids
    of_byte = dict(zip(text.encode(), ids, strict=True))
    assert [of_byte[byte] for byte in text.encode()] == ids
    assert len(set(of_byte.values())) == len(of_byte)
    assert not set(ids) & set(tokenizer.all_special_ids)


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


@by_tokenizer
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


@by_tokenizer
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
    byte_tokenizer(split_special_tokens=split).save_pretrained(tmp_path)
    for tokenizer in (byte_tokenizer(split_special_tokens=split), load(tmp_path)):
        assert len(tokenizer("<mask>").input_ids) == length


@by_tokenizer
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
        assert loaded.decode(loaded(text).input_ids) == text


@by_tokenizer
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
    """Every merged token is a part of a training text, and other texts are cut into more of them."""
    tokenizer = trained()
    assert len(tokenizer) == 280
    in_letters = ["".join(byte_tokenizer().tokenize(text)) for text in TRAINING_TEXTS]
    merged = tokenizer.convert_ids_to_tokens(list(range(261, 280)))
    assert all(len(token) > 1 and any(token in text for text in in_letters) for token in merged)
    assert len(tokenizer("the cat sat").input_ids) < len(tokenizer("zzz qqq www").input_ids) == 11


def test_bpe_reads_its_texts_once():
    """The texts may be a stream: they are read once, and the same texts give the same tokenizer."""
    streamed = train_bpe_tokenizer(iter(TRAINING_TEXTS), 280, show_progress=False)
    assert streamed.get_vocab() == trained().get_vocab()


def test_bpe_without_texts():
    """A tokenizer of no text has the bytes only, whatever size is asked for."""
    assert len(train_bpe_tokenizer([], 300, show_progress=False)) == 261


def test_bpe_of_bytes_only():
    """The smallest vocabulary is that of the byte tokenizer: the bytes, and nothing merged."""
    smallest = train_bpe_tokenizer(TRAINING_TEXTS, 261, show_progress=False)
    assert smallest.get_vocab().keys() == byte_tokenizer().get_vocab().keys()


def test_bpe_needs_room_for_the_bytes():
    """A vocabulary too small for every byte is refused: some text would be lost."""
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
    """A mask that is named is a token of its own, also beside a symbol; one that is not named is unknown."""
    special = {"unk_token": "?", "mask_token": "_"}
    tokenizer = symbol_tokenizer(["?", "_", "a", "b"], special_tokens=special)
    assert tokenizer("a _ b <mask>").input_ids == [2, 1, 3, 0]
    assert tokenizer.mask_token_id == 1
    assert tokenizer.pad_token is None


SYMBOLS_REFUSED = {
    "twice": (["<unk>", "a", "a"], {"unk_token": "<unk>"}, False, r"each there once, got \['a'\]"),
    "space": (["<unk>", "a b"], {"unk_token": "<unk>"}, False, r"without spaces.*\['a b'\]"),
    "nothing": (["<unk>", ""], {"unk_token": "<unk>"}, False, r"got \[''\]"),
    "not a symbol": (["a"], {"unk_token": "<unk>"}, False, r"unk_token.*: add '<unk>' to the symbols"),
    "no such role": (["a"], {"unk_token": "a", "end": "a"}, False, r"some of pad_token, .* got .*'end'"),
    "none for the unknown": (["a"], {"pad_token": "a"}, False, "must name unk_token, got"),
    "no end to append": (["a"], {"unk_token": "a"}, True, "must name eos_token and unk_token, got"),
}


@pytest.mark.parametrize(
    ("symbols", "special", "append_eos", "says"), SYMBOLS_REFUSED.values(), ids=SYMBOLS_REFUSED.keys()
)
def test_symbols_refused(symbols: list[str], special: dict[str, str], append_eos: bool, says: str):
    """Symbols that no text could hold, and special tokens that are none, are refused with the cure."""
    with pytest.raises(ValueError, match=says):
        symbol_tokenizer(symbols, special_tokens=special, append_eos=append_eos)
