"""What a page answers and draws, without the page: every head, empty fields, folders that are refused, poles."""

import sys
from collections import Counter
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from scipy.io import wavfile
from test_inference import folder_of
from tiny import perturbed, tiny_config
from tiny_striped import tiny_striped
from transformers import pipeline
from typer.testing import CliRunner

from modeling_dlr import (
    DLRConfig,
    DLRForCausalLM,
    DLRForSequenceClassification,
    DLRModel,
    StripedHyenaModelForCausalLM,
)
from modeling_dlr.cli import app
from modeling_dlr.demo import answerer_of
from modeling_dlr.demo.answers import Answer, Answerer
from modeling_dlr.demo.kernels import (
    LENGTH,
    SAMPLING_RATE,
    bank_of,
    kernel_picture,
    layers_of,
    one_pole,
    pole_at,
    pole_picture,
    sound_of,
)
from modeling_dlr.demo.page import respond
from modeling_dlr.finetuning import Task
from modeling_dlr.inference import Predictor
from modeling_dlr.processing import pixel_processor, sound_extractor

TEXT = "Was it in <Rome>,\nor ___ there?"
CLASSES, SEVERAL = ["good", "bad", "so, so"], {"problem_type": "multi_label_classification"}
SIGNALS = {"sound": {"input_size": 1}, "image": {"input_size": 3}}
PROCESSORS = {"sound": sound_extractor(80), "image": pixel_processor()}
# One row per page: the head, its labels, its fields, and what reads its input where that is no text.
FOLDERS: dict[str, tuple[str, list[str], dict[str, Any], str | None]] = {
    "classes": ("DLRForSequenceClassification", CLASSES, {}, None),
    "several": ("DLRForSequenceClassification", CLASSES, SEVERAL, None),
    "number": ("DLRForSequenceClassification", ["value"], {}, None),
    "pairs": ("DLRForSequencePairClassification", ["same", "other"], {}, None),
    "tokens": ("DLRForTokenClassification", ["O", "name", "place"], {}, None),
    "sound": ("DLRForAudioClassification", ["a", "b"], {}, "sound"),
    "frames": ("DLRForAudioFrameClassification", ["a", "b"], {}, "sound"),
    "image": ("DLRForImageClassification", ["a", "b"], {}, "image"),
    "regions": ("DLRForSemanticSegmentation", ["sky", "road"], {}, "image"),
    "gaps": ("DLRForMaskedLM", ["x"], {}, None),
    "writing": ("DLRForCausalLM", ["x"], {"bidirectional": False}, None),
    "question": ("DLRForQuestionAnswering", ["x", "y"], {}, None),
    "choice": ("DLRForMultipleChoice", ["x"], {}, None),
}


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("folders")
    for name, (head, labels, fields, medium) in FOLDERS.items():
        folder_of(place / name, head, labels, PROCESSORS.get(medium), **SIGNALS.get(medium, {}), **fields)
    wavfile.write(place / "a.wav", 8000, np.random.default_rng(0).integers(-999, 999, 4000).astype(np.int16))
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (7, 9, 3)).astype(np.uint8)).save(place / "a.png")
    return place


def asked(folders: Path, name: str) -> tuple[Any, list[Any]]:
    """The answerer of a folder, and a value for each of its fields."""
    answerer = answerer_of(folders / name)
    given = {"text": TEXT, "sound": str(folders / "a.wav"), "image": str(folders / "a.png"), "switch": True}
    return answerer, [given.get(field.kind, 3 if field.kind == "number" else None) for field in answerer.asks]


@pytest.mark.parametrize("name", FOLDERS)
def test_every_folder_answers(name: str, folders: Path):
    """With every part that its page shows, and the text whole; what is empty is refused in words."""
    answerer, values = asked(folders, name)
    answer = answerer(*values)
    assert answer.said
    assert all(getattr(answer, part) for part in answerer.shows)
    if "pieces" in answerer.shows and name not in ("gaps", "writing"):
        assert "".join(text for text, _ in answer.pieces) == TEXT
    with pytest.raises(ValueError, match="first"):
        answerer(*(None if isinstance(value, str) else value for value in values))


def predicted(folders: Path, name: str) -> dict[str, Any]:
    _, values = asked(folders, name)
    predictor = Predictor(folders / name)
    return dict(predictor([dict(zip(predictor.task.text_columns, values, strict=False))])[0])


@pytest.mark.parametrize("name", ["classes", "pairs", "sound", "image"])
def test_classes(name: str, folders: Path):
    """The label and the score that `modeling-dlr predict` gives; all probabilities add up to 1."""
    answerer, values = asked(folders, name)
    answer, row = answerer(*values), predicted(folders, name)
    assert row["label"] in answer.said
    assert answer.scores[row["label"]] == pytest.approx(row["score"], rel=1e-5)
    assert sum(answer.scores.values()) == pytest.approx(1)


def test_several_labels(folders: Path):
    """Those at or above their thresholds, as `task.json` has them."""
    task = Task("several labels", "text", ["text"], None, CLASSES, {"good": 0.01, "bad": 0.99, "so, so": 0.01})
    task.save(folders / "several")
    answerer, values = asked(folders, "several")
    answer, row = answerer(*values), predicted(folders, "several")
    assert row["label"] == ["good", "so, so"]
    assert "good, so, so" in answer.said
    assert answer.scores == pytest.approx({label: row[f"score_{label}"] for label in CLASSES}, rel=1e-5)


def test_numbers(folders: Path):
    answerer, values = asked(folders, "number")
    assert f"{predicted(folders, 'number')['value']:.5g}"[:6] in answerer(*values).said


def test_words_that_moved_the_answer_are_asked_for(folders: Path):
    """Only then is the text coloured: it takes 32 passes of the model."""
    answerer, values = asked(folders, "classes")
    assert {label for _, label in answerer(*values).pieces} <= {None, "for", "against"}
    assert answerer(TEXT, False).pieces == []


def test_spans(folders: Path):
    """Those of `modeling-dlr predict`, in the text and in seconds."""
    answerer, values = asked(folders, "tokens")
    rows = Predictor(folders / "tokens")([TEXT])
    found = [(text, label) for text, label in answerer(*values).pieces if label]
    assert found == [(TEXT[row["start"] : row["end"]], row["label"]) for row in rows]
    assert answerer.labels == ("name", "place")
    counts = Counter(row["label"] for row in rows)
    assert all(f"{count} {label}" in answerer(*values).said for label, count in counts.items())
    answerer, values = asked(folders, "frames")
    table = answerer(*values).table
    assert table[0][0] == 0
    assert table[-1][1] == 0.5


@pytest.mark.parametrize(("count", "legend"), [(12, False), (13, True)])
def test_labels_of_many_pieces_are_a_legend(count: int, legend: bool):
    """A text with a name on every other word cannot be read."""

    class Marker(Answerer):
        shows = ("pieces",)

        def __call__(self, *values: Any) -> Answer:
            return Answer("Marked.", pieces=[("a", "x"), (" ", None)] * count)

    _, pieces = respond(SimpleNamespace(update=dict), Marker())("text")
    assert pieces["visible"]
    assert (pieces["show_legend"], pieces["show_inline_category"]) == (legend, not legend)


def test_gaps(folders: Path):
    """The candidates of transformers' pipeline, whether the gap is typed as underscores or as the mask token."""
    answerer, _ = asked(folders, "gaps")
    mask = answerer.tokenizer.mask_token
    answer = answerer("a ___ c")
    assert answerer(f"a {mask} c") == answer
    expected = pipeline("fill-mask", str(folders / "gaps"), top_k=8)(f"a {mask} c")
    assert list(answer.scores.values()) == pytest.approx([one["score"] for one in expected], rel=1e-4)
    assert [label for _, label in answerer("a ___ c ___").pieces].count("filled in") == 2
    with pytest.raises(ValueError, match="no gap"):
        answerer("a b")


def test_writing(folders: Path):
    """At temperature 0 what `generate` writes, after the begin that was given; no more than was asked for."""
    answerer, _ = asked(folders, "writing")
    first, second = answerer(TEXT, 4, 0), answerer(TEXT, 4, 0)
    assert first == second
    assert first.pieces[0] == (TEXT, None)
    inputs = answerer.tokenizer(TEXT, return_tensors="pt")
    new = answerer.model.generate(**inputs, max_new_tokens=4, do_sample=False)[0, inputs["input_ids"].shape[1] :]
    assert first.pieces[1:] == [(answerer.tokenizer.decode(new, skip_special_tokens=True), "written by the model")]
    assert isinstance(answerer(TEXT, 4, 1.5), Answer)


def test_answers_of_questions(folders: Path):
    """The span with the largest sum of log-probabilities of all whose end is not before their start."""
    answerer, _ = asked(folders, "question")
    text = "in Rome"
    answer = answerer("Where?", text)
    inputs = answerer.tokenizer("Where?", text, return_tensors="pt", return_offsets_mapping=True)
    places = inputs.pop("offset_mapping")[0].tolist()
    inside = [place for place, side in enumerate(inputs.sequence_ids(0)) if side == 1]
    with torch.no_grad():
        output = answerer.model(**inputs)
    pairs = {
        (i, j): float(output.start_logits[0, inside[i]] + output.end_logits[0, inside[j]])
        for i in range(len(inside))
        for j in range(i, len(inside))
    }
    start, end = max(pairs, key=lambda pair: pairs[pair])
    assert (text[places[inside[start]][0] : places[inside[end]][1]], "answer") in answer.pieces


def test_regions(folders: Path):
    """Every pixel has one label, at the size of the image."""
    answerer, values = asked(folders, "regions")
    regions = answerer(*values).regions
    assert regions.image.shape == (7, 9, 3)
    assert (sum(mask.astype(int) for mask in regions.masks.values()) == 1).all()


def no_head(place: Path) -> None:
    DLRModel(tiny_config(vocab_size=261)).save_pretrained(place)


def real_values(place: Path) -> None:
    DLRForSequenceClassification(tiny_config(vocab_size=None, input_size=2)).save_pretrained(place)


def no_tokenizer(place: Path) -> None:
    DLRForCausalLM(tiny_config(vocab_size=261)).save_pretrained(place)


@pytest.mark.parametrize(
    ("make", "rule"),
    [(lambda place: None, "no folder"), (Path.mkdir, "no config.json"), (no_head, "DLRModel"),
     (real_values, "real values"), (no_tokenizer, "no tokenizer")],
    ids=["no folder", "empty", "no head", "real values", "no tokenizer"],
)  # fmt: skip
def test_refused_folders(make: Any, rule: str, tmp_path: Path):
    """In one line, before a page is made."""
    make(tmp_path / "model")
    with pytest.raises(ValueError, match=rule) as caught:
        answerer_of(tmp_path / "model")
    assert "\n" not in str(caught.value)


def test_without_gradio(folders: Path, monkeypatch: pytest.MonkeyPatch):
    """The command says what to install."""
    monkeypatch.setitem(sys.modules, "gradio", None)
    result = CliRunner().invoke(app, ["demo", str(folders / "classes")])
    assert result.exit_code == 1
    assert "pip install 'modeling-dlr[demo]'" in result.output
    assert len(result.output.splitlines()) == 1


KERNELS: dict[str, dict[str, Any]] = {
    "dlr": {"kernel_type": "dlr"},
    "dlr, poles of their own": {"kernel_type": "dlr", "pole_init": "dfout"},
    "products": {"kernel_type": "dlr", "read_out": "real_prod"},
    "dss, whose weights depend on the length": {"kernel_type": "dss", "version": "softmax"},
    "s4d": {"kernel_type": "s4d"},
}


@pytest.mark.parametrize("channel", [0, 3])
@pytest.mark.parametrize("name", KERNELS)
def test_kernels(name: str, channel: int):
    """A bank has the kernel of its channel, also after a pole was moved to where it is."""
    config = DLRConfig(vocab_size=11, hidden_size=4, num_hidden_layers=2, state_size=5, kernel_parameters=KERNELS[name])
    model = perturbed(DLRModel(config))
    layers = layers_of(model)
    assert len(layers) == 2
    bank = bank_of(layers, 1, channel)
    expected = layers[1][0](LENGTH)[0, channel].detach().double().numpy()
    scale = np.abs(expected).max()
    np.testing.assert_allclose(bank.kernel(LENGTH), expected, rtol=0, atol=1e-5 * scale)
    same = bank.moved(2, *bank.pole(2))
    np.testing.assert_allclose(same.kernel(LENGTH), bank.kernel(LENGTH), rtol=0, atol=1e-5 * scale)
    with pytest.raises(ValueError, match="none 4"):
        bank_of(layers, 0, 4)


def test_a_pole_is_moved():
    """Its mode becomes w Λ^l with the new Λ, and the model stays as it was."""
    model = perturbed(DLRModel(DLRConfig(vocab_size=11, hidden_size=4, num_hidden_layers=1, state_size=5)))
    layers = layers_of(model)
    bank = bank_of(layers, 0, 1)
    poles, weights = bank.poles().poles.copy(), (bank.modes.weights_real + 1j * bank.modes.weights_imag)[0, 0].numpy()
    poles[3] = 0.9 * np.exp(0.4j)
    expected = (weights[:, None] * poles[:, None] ** np.arange(64)).sum(0).real
    np.testing.assert_allclose(bank.moved(3, 0.9, 0.4).kernel(64), expected, rtol=0, atol=1e-5)
    assert bank_of(layers, 0, 1).pole(3) == bank.pole(3)


def test_striped_hyena_has_poles():
    model = tiny_striped(StripedHyenaModelForCausalLM).float()
    layers = layers_of(model)
    assert [channels for _, channels in layers] == [12, 12]
    modes = layers[1][0].modes()
    bank = bank_of(layers, 1, 5)
    torch.testing.assert_close(bank.modes.decay, modes.decay[5].detach())
    assert bank.kernel(8)[0] == pytest.approx(float(modes.weights_real[0, 5].detach().sum()), rel=1e-5)


def test_models_without_poles():
    """Get one pole that is nobody's."""
    options = {"kernel_type": "sgconv"}
    config = DLRConfig(vocab_size=11, hidden_size=4, num_hidden_layers=1, kernel_parameters=options)
    assert layers_of(DLRModel(config)) == []
    assert bank_of([], 0, 0).count == 1


@pytest.mark.parametrize(("magnitude", "angle"), [(0.5, 0.3), (0.95, -2.0), (1.0, 3.0)])
def test_a_click_finds_the_pole(magnitude: float, angle: float):
    """At the middle of the ring that is drawn."""
    picture = pole_picture(one_pole().moved(0, magnitude, angle), 0)[..., :3].astype(int)
    rows, columns = np.nonzero(np.abs(picture - [214, 39, 40]).sum(-1) < 30)
    found = pole_at((columns.min() + columns.max()) / 2, (rows.min() + rows.max()) / 2)
    assert found == pytest.approx((magnitude, angle), abs=0.01)


def test_sound_and_picture():
    """A second whose loudest sample is not clipped; two kernels that differ are both drawn."""
    bank = one_pole()
    rate, samples = sound_of(bank)
    assert samples.shape == (rate,) == (SAMPLING_RATE,)
    assert np.abs(samples.astype(int)).max() == pytest.approx(0.8 * 32767, abs=1)
    same, other = kernel_picture(bank, bank), kernel_picture(bank, bank.moved(0, 0.9, 1.0))
    assert same.shape == other.shape
    assert (same != other).any()
