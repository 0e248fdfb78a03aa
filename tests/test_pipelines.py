"""Every pipeline on a saved folder: its output is that of the model called by hand."""

import itertools
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from PIL import Image
from tiny import perturbed, tiny_config
from torch import Tensor
from transformers import (
    AutoFeatureExtractor,
    AutoImageProcessor,
    PreTrainedTokenizerFast,
    SegformerImageProcessorPil,
    ViTImageProcessorPil,
    Wav2Vec2FeatureExtractor,
    pipeline,
)

from modeling_dlr import DLRPreTrainedModel
from modeling_dlr.auto_dlr import AUTO_CLASSES
from modeling_dlr.processing import pixel_processor, sound_extractor
from modeling_dlr.tokenization import byte_tokenizer, train_bpe_tokenizer

TEXTS = ["a", "Grüße, 世界!", "the cat sat on the mat " * 3, "né"]
LABELS = {0: "O", 1: "NOUN", 2: "B-PLACE", 3: "I-PLACE"}
LANGUAGE = {"vocab_size": 261, "pad_token_id": 0, "bos_token_id": 2, "eos_token_id": 3}
READS_BOTH_WAYS = LANGUAGE | {"bidirectional": True}

# The scores of a batch differ from those one by one only by the rounding of longer transforms.
TOLERANCE = {"rtol": 1e-5, "atol": 1e-5}


class Saved:
    """A tiny model and what prepares its input, saved together, and the pipeline that finds both."""

    def __init__(self, folder: Path, auto_class: str, processor: Any, **fields: Any):
        self.model = perturbed(AUTO_CLASSES[auto_class](tiny_config(**fields))).eval()
        self.processor, self.folder = processor, str(folder)
        self.model.save_pretrained(folder)
        processor.save_pretrained(folder)

    def pipeline(self, task: str, **options: Any) -> Callable[..., Any]:
        return pipeline(task, model=self.folder, **options)

    @torch.no_grad()
    def logits(self, inputs: Any) -> Tensor:
        """Of one example, prepared by hand."""
        return self.model(**self.processor(inputs, return_tensors="pt")).logits[0]


def bpe(**options: Any) -> PreTrainedTokenizerFast:
    return train_bpe_tokenizer([*TEXTS, "Die Größe von Öl und Grüßen"] * 4, 320, show_progress=False, **options)


def scores_of(rows: list[dict[str, Any]]) -> dict[str, float]:
    return {row["label"]: row["score"] for row in rows}


def by_label(model: DLRPreTrainedModel, values: Tensor) -> dict[str, float]:
    return {model.config.id2label[i]: value for i, value in enumerate(values.tolist())}


def grouped(ids: list[int], offsets: list[tuple[int, int]]) -> list[tuple[str, int, int]]:
    """Runs of one kind of label, and the characters that they cover; "B-" begins a run."""
    groups: list[tuple[str, int, int]] = []
    for i, (start, end) in zip(ids, offsets, strict=True):
        kind = LABELS[i].split("-")[-1]
        if groups and groups[-1][0] == kind and not LABELS[i].startswith("B-"):
            groups[-1] = (kind, groups[-1][1], end)
        else:
            groups.append((kind, start, end))
    return groups


@pytest.mark.parametrize(
    "fields",
    [READS_BOTH_WAYS, LANGUAGE | {"pooling": "last"}, READS_BOTH_WAYS | {"pooling": "max"}],
    ids=["mean of both ways", "last", "max of both ways"],
)
def test_text_classification(fields: dict[str, Any], tmp_path: Path):
    """One label or all with their scores, in padded batches as one by one."""
    saved = Saved(tmp_path, "AutoModelForSequenceClassification", byte_tokenizer(), **fields)
    classify = saved.pipeline("text-classification")
    expected = [by_label(saved.model, saved.logits(text).softmax(-1)) for text in TEXTS]
    for batch_size in (1, 3):
        best = classify(TEXTS, batch_size=batch_size)
        for row, scores in zip(best, expected, strict=True):
            assert row["score"] == pytest.approx(max(scores.values()), abs=1e-5)
            assert row["score"] == pytest.approx(scores[row["label"]], abs=1e-5)
        for rows, scores in zip(classify(TEXTS, batch_size=batch_size, top_k=None), expected, strict=True):
            assert scores_of(rows) == pytest.approx(scores, abs=1e-5)
            assert [row["score"] for row in rows] == sorted(scores_of(rows).values(), reverse=True)
    assert [len(rows) for rows in classify(TEXTS, top_k=2)] == [2] * 4


@pytest.mark.parametrize("problem", ["multi_label_classification", "regression"])
def test_several_labels_and_regression(problem: str, tmp_path: Path):
    """The problem that was saved decides: a probability for every label, or the numbers themselves."""
    fields = READS_BOTH_WAYS | {"problem_type": problem}
    saved = Saved(tmp_path, "AutoModelForSequenceClassification", byte_tokenizer(), **fields)
    classify = saved.pipeline("text-classification", top_k=None)
    for text, rows in zip(TEXTS, classify(TEXTS, batch_size=4), strict=True):
        logits = saved.logits(text)
        expected = logits if problem == "regression" else logits.sigmoid()
        assert scores_of(rows) == pytest.approx(by_label(saved.model, expected), rel=1e-4, abs=1e-5)


EMPTY = {
    "text-classification": ("AutoModelForSequenceClassification", READS_BOTH_WAYS, {"top_k": None}),
    "token-classification": ("AutoModelForTokenClassification", READS_BOTH_WAYS, {"ignore_labels": []}),
    "feature-extraction": ("AutoModel", READS_BOTH_WAYS, {}),
    "text-generation": ("AutoModelForCausalLM", LANGUAGE, {"max_new_tokens": 5, "do_sample": False}),
}


@pytest.mark.parametrize("task", EMPTY)
def test_empty_text(task: str, tmp_path: Path):
    """An empty text has the output of the empty document, alone and in a batch, and changes no other output."""
    auto_class, fields, options = EMPTY[task]
    saved = Saved(tmp_path, auto_class, byte_tokenizer(add_prefix_space=False), **fields)
    answer = saved.pipeline(task, **options)
    texts = ["good", "", "bad one"]
    good, empty, bad = answer(texts)
    if task == "text-classification":
        expected = by_label(saved.model, saved.model.classifier.bias.detach().softmax(-1))
        for one, other in zip((good, empty, bad), answer(texts, batch_size=3), strict=True):
            assert scores_of(one) == pytest.approx(scores_of(other), rel=1e-4)
        assert scores_of(empty) == scores_of(answer("")[0]) == pytest.approx(expected, rel=1e-5)
    elif task == "feature-extraction":
        assert empty == [[]]
        for text, one, other in zip(texts, (good, empty, bad), answer(texts, batch_size=3), strict=True):
            np.testing.assert_allclose(one[0], other[0][: len(text)], **TOLERANCE)
    # The others' batches are padded by transformers, which cannot pad what has no step (with offsets, or on the left).
    elif task == "token-classification":
        assert ([row["start"] for row in good], empty, answer("")) == ([0, 1, 2, 3], [], [])
    else:
        begun = saved.model.generate(torch.tensor([[2]]), max_new_tokens=5, do_sample=False)[0]
        written = [{"generated_text": saved.processor.decode(begun, skip_special_tokens=True)}]
        assert empty == answer("") == written


def test_token_classification(tmp_path: Path):
    """A label per byte with the position of its character, in batches as one by one."""
    tokenizer = byte_tokenizer(add_prefix_space=False)
    saved = Saved(tmp_path, "AutoModelForTokenClassification", tokenizer, **READS_BOTH_WAYS, id2label=LABELS)
    tag = saved.pipeline("token-classification", ignore_labels=[])
    for batch_size in (1, 4):
        for text, rows in zip(TEXTS, tag(TEXTS, batch_size=batch_size), strict=True):
            probabilities = saved.logits(text).softmax(-1)
            assert len(rows) == len(text.encode())
            assert [row["entity"] for row in rows] == [LABELS[i] for i in probabilities.argmax(-1).tolist()]
            np.testing.assert_allclose([row["score"] for row in rows], probabilities.amax(-1), **TOLERANCE)
            covered = [text[row["start"] : row["end"]] for row in rows]
            assert covered == [character for character in text for _ in character.encode()]


@pytest.mark.parametrize("build", [byte_tokenizer, bpe], ids=["bytes", "BPE"])
def test_groups_of_tokens(build: Callable[[], PreTrainedTokenizerFast], tmp_path: Path):
    """Neighbours of one kind become one span, whose place is counted in characters."""
    tokenizer = build()
    fields = READS_BOTH_WAYS | {"vocab_size": len(tokenizer), "id2label": LABELS}
    saved = Saved(tmp_path, "AutoModelForTokenClassification", tokenizer, **fields)
    find = saved.pipeline("token-classification", aggregation_strategy="simple", ignore_labels=["O"])
    for text in TEXTS:
        offsets = tokenizer(text, return_offsets_mapping=True).offset_mapping
        expected = grouped(saved.logits(text).argmax(-1).tolist(), offsets)
        spans = [(span["entity_group"], span["start"], span["end"]) for span in find(text)]
        assert spans == [group for group in expected if group[0] != "O"]


@pytest.mark.filterwarnings("ignore:Tokenizer does not support real words")
@pytest.mark.parametrize("strategy", ["first", "average", "max"])
@pytest.mark.parametrize("build", [byte_tokenizer, bpe], ids=["bytes", "BPE"])
def test_words(build: Callable[..., PreTrainedTokenizerFast], strategy: str, tmp_path: Path):
    """With a strategy for words, all tokens of a word share a label; transformers takes what has no space for one."""
    tokenizer = build(add_prefix_space=False)
    fields = READS_BOTH_WAYS | {"vocab_size": len(tokenizer), "id2label": {i: f"KIND{i}" for i in range(4)}}
    saved = Saved(tmp_path, "AutoModelForTokenClassification", tokenizer, **fields)
    find = saved.pipeline("token-classification", aggregation_strategy=strategy)
    text = "the cat, Größe sat"
    encoded = tokenizer(text, return_offsets_mapping=True)
    probabilities = saved.logits(text).softmax(-1)
    words: list[list[int]] = []
    for i, (start, _) in enumerate(encoded.offset_mapping):
        if start > 0 and " " not in text[start - 1 : start + 1]:
            words[-1].append(i)
        else:
            words.append([i])
    of_word = {
        "first": lambda scores: scores[0],
        "average": lambda scores: scores.mean(0),
        "max": lambda scores: scores[scores.amax(-1).argmax()],
    }[strategy]
    expected: list[list[int]] = []
    for word in words:
        kind = int(of_word(probabilities[word]).argmax())
        start, end = encoded.offset_mapping[word[0]][0], encoded.offset_mapping[word[-1]][1]
        if expected and expected[-1][0] == kind:
            expected[-1][2] = end
        else:
            expected.append([kind, start, end])
    spans = find(text)
    assert [[int(span["entity_group"][-1]), span["start"], span["end"]] for span in spans] == expected
    # Where a word is not ASCII, transformers decodes it twice: its place is right, its "word" is not.
    covered = [(span["word"], text[span["start"] : span["end"]]) for span in spans]
    assert "".join(place for _, place in covered) == text
    assert all(word == place for word, place in covered if place.isascii())


@pytest.mark.filterwarnings("ignore:Tokenizer does not support real words")
def test_words_of_the_script_for_words(tmp_path: Path):
    """With merged spaces, the label of a word in a text is that of the token that transformers' script labels."""
    tokenizer = byte_tokenizer(merge_spaces=True)
    fields = READS_BOTH_WAYS | {"vocab_size": len(tokenizer), "id2label": {i: f"KIND{i}" for i in range(4)}}
    saved = Saved(tmp_path, "AutoModelForTokenClassification", tokenizer, **fields)
    words = ["New", "York", ",", "where", "they", "met", "in", "1831"]
    word_ids = tokenizer(words, is_split_into_words=True).word_ids()
    first = [word_ids.index(place) for place in range(len(words))]
    kinds = saved.logits(" ".join(words)).argmax(-1)[first].tolist()
    assert len(set(kinds)) > 1
    expected = [list(group) for _, group in itertools.groupby(zip(kinds, words, strict=True), key=lambda pair: pair[0])]
    spans = saved.pipeline("token-classification", aggregation_strategy="first")(" ".join(words))
    found = [(int(span["entity_group"][-1]), span["word"].split()) for span in spans]
    assert found == [(group[0][0], [word for _, word in group]) for group in expected]


def test_fill_mask(tmp_path: Path):
    """The likeliest tokens of a mask, of chosen ones only, and of several masks each by itself."""
    saved = Saved(tmp_path, "AutoModelForMaskedLM", byte_tokenizer(add_prefix_space=False), **READS_BOTH_WAYS)
    fill = saved.pipeline("fill-mask")
    tokenizer, text = saved.processor, "Grü<mask>e <mask> x<mask>"
    ids = tokenizer(text).input_ids
    places = [i for i, token in enumerate(ids) if token == tokenizer.mask_token_id]
    assert len(places) == 3
    probabilities = saved.logits(text)[places].softmax(-1)
    for rows, scores in zip(fill(text, top_k=4), probabilities, strict=True):
        top = scores.topk(4)
        assert [row["token"] for row in rows] == top.indices.tolist()
        np.testing.assert_allclose([row["score"] for row in rows], top.values, **TOLERANCE)

    one = "Grü<mask>e"
    scores = saved.logits(one)[4].softmax(-1)
    targets = tokenizer("xyz").input_ids
    rows = fill(one, targets=["x", "y", "z"])
    assert {row["token"]: row["score"] for row in rows} == pytest.approx({i: scores[i].item() for i in targets})
    assert {row["sequence"] for row in rows} == {"Grüxe", "Grüye", "Grüze"}
    alone = [fill(each, top_k=1)[0] for each in (one, "<mask> a longer text")]
    for row, (other,) in zip(alone, fill([one, "<mask> a longer text"], top_k=1, batch_size=2), strict=True):
        assert row == other | {"score": pytest.approx(other["score"], abs=1e-5)}


def test_text_generation(tmp_path: Path):
    """Greedy text is that of generate, alone and in a batch padded on the left; with or without the prompt."""
    saved = Saved(tmp_path, "AutoModelForCausalLM", byte_tokenizer(), **LANGUAGE)
    write = saved.pipeline("text-generation", max_new_tokens=9, do_sample=False)
    new_texts = []
    for text in TEXTS:
        inputs = saved.processor(text, return_tensors="pt")
        ids = saved.model.generate(**inputs, max_new_tokens=9, do_sample=False)[0, inputs["input_ids"].shape[1] :]
        new_texts.append(saved.processor.decode(ids, skip_special_tokens=True))
    assert len(set(new_texts)) > 1
    for batch_size in (1, 4):
        full = write(TEXTS, batch_size=batch_size)
        assert [row["generated_text"] for (row,) in full] == [a + b for a, b in zip(TEXTS, new_texts, strict=True)]
    new = write(TEXTS, batch_size=4, return_full_text=False)
    assert [row["generated_text"] for (row,) in new] == new_texts
    assert len(write("a", num_return_sequences=3, do_sample=True)) == 3
    assert set(write("")[0]) == {"generated_text"}


def test_feature_extraction(tmp_path: Path):
    """The last hidden state of every token."""
    saved = Saved(tmp_path, "AutoModel", byte_tokenizer(add_prefix_space=False), **READS_BOTH_WAYS)
    extract = saved.pipeline("feature-extraction")
    for text, features in zip(TEXTS, extract(TEXTS), strict=True):
        with torch.no_grad():
            expected = saved.model(**saved.processor(text, return_tensors="pt")).last_hidden_state
        np.testing.assert_allclose(features, expected, **TOLERANCE)
    batch = extract(TEXTS, batch_size=4, return_tensors=True)
    np.testing.assert_allclose(batch[0][0, :1], np.array(extract("a"))[0], **TOLERANCE)


RATE = 8000


def recordings() -> list[np.ndarray]:
    random = np.random.default_rng(0)
    return [random.standard_normal(length).astype(np.float32) for length in (100, 63, 7)]


def test_audio_classification(tmp_path: Path):
    """Arrays, tensors, and arrays with their rate; recordings of several lengths in a batch as one by one."""
    saved = Saved(tmp_path, "AutoModelForAudioClassification", sound_extractor(RATE), input_size=1)
    assert isinstance(AutoFeatureExtractor.from_pretrained(tmp_path), Wav2Vec2FeatureExtractor)
    classify = saved.pipeline("audio-classification", top_k=None)
    expected = []
    for sound in recordings():
        prepared = saved.processor(sound, sampling_rate=RATE, return_tensors="pt")
        np.testing.assert_allclose(prepared["input_values"][0], (sound - sound.mean()) / sound.std(), atol=1e-4)
        with torch.no_grad():
            expected.append(by_label(saved.model, saved.model(**prepared).logits[0].softmax(-1)))
    asked = {
        "arrays": recordings(),
        "tensors": [torch.from_numpy(sound) for sound in recordings()],
        "rates": [{"raw": sound, "sampling_rate": RATE} for sound in recordings()],
        "rows of datasets": [{"array": sound, "sampling_rate": RATE, "path": None} for sound in recordings()],
    }
    for inputs in asked.values():
        for batch_size in (1, 3):
            for rows, scores in zip(classify(inputs, batch_size=batch_size), expected, strict=True):
                assert scores_of(rows) == pytest.approx(scores, abs=1e-5)


def test_sound_that_is_refused(tmp_path: Path):
    """A wrong rate, two channels: an error that says so, from whoever notices first; nothing is an empty document."""
    saved = Saved(tmp_path, "AutoModelForAudioClassification", sound_extractor(RATE), input_size=1)
    sound = recordings()[0]
    with pytest.raises(ValueError, match=r"sampling rate of 8000.*not 16000"):
        saved.processor(sound, sampling_rate=16000)
    classify = saved.pipeline("audio-classification")
    if not transformers.utils.is_torchaudio_available():
        with pytest.raises(ImportError, match="torchaudio is required to resample"):
            classify({"raw": sound, "sampling_rate": 16000})
    with pytest.raises(ValueError, match="single channel"):
        classify(np.stack([sound, sound]))
    with warnings.catch_warnings():  # numpy's, of the mean of nothing
        warnings.simplefilter("ignore", RuntimeWarning)
        nothing = classify(np.zeros(0, dtype=np.float32), top_k=None)
    expected = by_label(saved.model, saved.model.classifier.bias.detach().softmax(-1))
    assert scores_of(nothing) == pytest.approx(expected, rel=1e-5)
    with pytest.raises(ValueError, match="at least 1 sample per second, got 0"):
        sound_extractor(0)


def picture(mode: str, width: int = 7, height: int = 5) -> Image.Image:
    pixels = np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)
    return Image.fromarray(pixels).convert(mode)


MODES = ["RGB", "L", "RGBA", "P", "1"]
by_channels = pytest.mark.parametrize("channels", [1, 3], ids=["grey", "RGB"])


def prepared_by_hand(image: Image.Image) -> Tensor:
    """[1, 3, h, w] from -1 to 1: pipelines make RGB of every image."""
    pixels = np.array(image.convert("RGB")).transpose(2, 0, 1)
    return torch.from_numpy(pixels / 127.5 - 1).float().unsqueeze(0)


@by_channels
@pytest.mark.parametrize("stock", [False, True], ids=["ours", "that of ViT"])
def test_image_classification(channels: int, stock: bool, tmp_path: Path):
    """Images of every mode, at the size of the processor as they are, in batches too."""
    processor = pixel_processor(5, 7)
    if stock:
        processor = ViTImageProcessorPil(size={"height": 5, "width": 7}, image_mean=0.5, image_std=0.5)
    saved = Saved(tmp_path, "AutoModelForImageClassification", processor, input_size=channels, bidirectional=True)
    classify = saved.pipeline("image-classification")
    images = [picture(mode) for mode in MODES]
    with torch.no_grad():
        outputs = [saved.model(pixel_values=prepared_by_hand(image)).logits[0] for image in images]
    for batch_size in (1, 3):
        for rows, logits in zip(classify(images, batch_size=batch_size), outputs, strict=True):
            assert scores_of(rows) == pytest.approx(by_label(saved.model, logits.softmax(-1)), abs=1e-5)
    assert len(classify(picture("RGB", 70, 50), top_k=2)) == 2


@by_channels
def test_image_segmentation(channels: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """A mask per class that is found, of the size of the image, whatever size the model reads; no word of the model."""
    monkeypatch.setattr(transformers.pipelines.base.logger, "error", pytest.fail)
    saved = Saved(tmp_path, "AutoModelForSemanticSegmentation", pixel_processor(5, 7), input_size=channels)
    segment = saved.pipeline("image-segmentation")
    images = [picture(mode) for mode in MODES]
    for batch_size in (1, 5):
        for image, rows in zip(images, segment(images, batch_size=batch_size), strict=True):
            with torch.no_grad():
                classes = saved.model(pixel_values=prepared_by_hand(image)).logits[0].argmax(0).numpy()
            masks = {row["label"]: np.array(row["mask"]) for row in rows}
            assert masks.keys() == {saved.model.config.id2label[i] for i in np.unique(classes)}
            for label, mask in masks.items():
                assert (mask == 255 * (classes == saved.model.config.label2id[label])).all()
    rows = segment(picture("RGB", 40, 30))
    assert all(row["mask"].size == (40, 30) for row in rows)
    assert (sum(np.array(row["mask"], dtype=int) for row in rows) == 255).all()


@pytest.mark.parametrize("mode", MODES)
def test_pixel_processor(mode: str, tmp_path: Path):
    """It prepares images of every mode and maps of labels, keeps or changes their size, and loads without us."""
    pixel_processor().save_pretrained(tmp_path)
    processor = AutoImageProcessor.from_pretrained(tmp_path, trust_remote_code=False)
    assert isinstance(processor, SegformerImageProcessorPil)
    image, labels = picture(mode), picture("L")
    prepared = processor(image, segmentation_maps=labels, return_tensors="pt")
    assert prepared["pixel_values"].shape == (1, 3, 5, 7)
    torch.testing.assert_close(prepared["pixel_values"], prepared_by_hand(image), rtol=0, atol=1e-6)
    assert (prepared["labels"][0].numpy() == np.array(labels)).all()
    smaller = pixel_processor(2, 3)(image, segmentation_maps=labels, return_tensors="pt")
    assert smaller["pixel_values"].shape == (1, 3, 2, 3)
    assert smaller["labels"].shape == (1, 2, 3)
    assert set(np.unique(smaller["labels"])) <= set(np.unique(np.array(labels)))


def test_pixels_that_are_refused():
    """Only one of height and width."""
    with pytest.raises(ValueError, match="got 5 and None"):
        pixel_processor(5)


# One row per task: the Auto class whose folder it asks, what prepares the input, the fields, and an input.
TASKS: dict[str, tuple[str, Callable[[], Any], dict[str, Any], Any]] = {
    "text-classification": ("AutoModelForSequenceClassification", byte_tokenizer, READS_BOTH_WAYS, "né"),
    "token-classification": ("AutoModelForTokenClassification", byte_tokenizer, READS_BOTH_WAYS, "né"),
    "fill-mask": ("AutoModelForMaskedLM", byte_tokenizer, READS_BOTH_WAYS, "n<mask>"),
    "text-generation": ("AutoModelForCausalLM", byte_tokenizer, LANGUAGE, "né"),
    "feature-extraction": ("AutoModel", byte_tokenizer, LANGUAGE, "né"),
    "audio-classification": (
        "AutoModelForAudioClassification",
        lambda: sound_extractor(RATE),
        {"input_size": 1},
        np.ones(7, dtype=np.float32),
    ),
    "image-classification": (
        "AutoModelForImageClassification",
        lambda: pixel_processor(5, 7),
        {"input_size": 3},
        picture("RGB"),
    ),
    "image-segmentation": (
        "AutoModelForSemanticSegmentation",
        lambda: pixel_processor(5, 7),
        {"input_size": 3},
        picture("RGB"),
    ),
}


@pytest.mark.parametrize("task", TASKS)
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64], ids=str)
def test_types(task: str, dtype: torch.dtype, tmp_path: Path):
    """Every pipeline runs in half and in double precision, and casts its input by itself."""
    auto_class, processor, fields, example = TASKS[task]
    saved = Saved(tmp_path, auto_class, processor(), **fields)
    options = {"max_new_tokens": 3, "do_sample": False} if task == "text-generation" else {}
    ask = saved.pipeline(task, dtype=dtype)
    assert ask.model.dtype == dtype
    assert len(ask(example, **options)) > 0
