"""Answers and vectors for tables: every task and kind of file, resumed, whole or not at all, and what is refused."""

import contextlib
import csv
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import hub_server
import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image
from scipy.io import wavfile
from test_cli import numbers_in
from tiny import perturbed
from transformers import ASTFeatureExtractor, BertConfig, BertModel
from typer.testing import CliRunner, Result

import modeling_dlr
from modeling_dlr import DLRConfig
from modeling_dlr.cli import app
from modeling_dlr.finetuning import Task, iter_rows
from modeling_dlr.inference import Embedder, Predictor, embed, predict
from modeling_dlr.inference.answers import Span, spans
from modeling_dlr.inference.inputs import Item, WindowedTexts
from modeling_dlr.inference.parts import Parts
from modeling_dlr.processing import pixel_processor, sound_extractor
from modeling_dlr.scoring import embeddings
from modeling_dlr.tokenization import byte_tokenizer

ROWS: list[dict[str, Any]] = [
    {"id": "1", "text": "a plain text"},
    {"id": "2", "text": ""},
    {"id": "3", "text": 'with, comma and "quotes"\nand a line'},
    {"id": "4", "text": "ä longer text, which is 漢字 at the end " * 3},
    {"id": "5", "text": "  \t"},
    {"id": "6", "text": "short"},
]
FULL = [0, 2, 3, 5]


def folder_of(place: Path, head: str, labels: list[str], processor: Any = None, **fields: Any) -> Path:
    """A tiny random model with what prepares its inputs."""
    torch.manual_seed(len(labels))
    size = {"vocab_size": 261, "pad_token_id": 0} if "input_size" not in fields else {}
    config = DLRConfig(
        hidden_size=4, num_hidden_layers=1, state_size=3, id2label=dict(enumerate(labels)),
        **{"bidirectional": True} | size | fields,
    )  # fmt: skip
    perturbed(getattr(modeling_dlr, head)(config)).save_pretrained(place)
    (byte_tokenizer() if processor is None else processor).save_pretrained(place)
    return place


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """One folder for each kind of answer, without a `task.json`."""
    place = tmp_path_factory.mktemp("folders")
    sequence, several = "DLRForSequenceClassification", {"problem_type": "multi_label_classification"}
    return {
        "classes": folder_of(place / "classes", sequence, ["good", "bad", "so, so"]),
        "several": folder_of(place / "several", sequence, ["url", "year", "code"], **several),
        "number": folder_of(place / "number", sequence, ["value"]),
        "pairs": folder_of(place / "pairs", "DLRForSequencePairClassification", ["same", "other"]),
        "tokens": folder_of(place / "tokens", "DLRForTokenClassification", ["O", "name", "place"]),
        "sound": folder_of(place / "sound", "DLRForAudioClassification", ["a", "b"], sound_extractor(80), input_size=1),
        "image": folder_of(place / "image", "DLRForImageClassification", ["a", "b"], pixel_processor(), input_size=3),
    }


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def run(*arguments: object) -> Result:
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


WRITERS: dict[str, Callable[[pd.DataFrame, str], object]] = {
    ".csv": lambda table, path: table.to_csv(path, index=False),
    ".tsv": lambda table, path: table.to_csv(path, index=False, sep="\t"),
    ".jsonl": lambda table, path: table.to_json(path, orient="records", lines=True),
    ".parquet": lambda table, path: table.to_parquet(path),
}


def read(path: str) -> list[dict[str, Any]]:
    """The rows of a table, with None where a cell is empty."""
    suffix = Path(path).suffix
    if suffix == ".jsonl":
        return [json.loads(line) for line in Path(path).read_text(encoding="utf-8").splitlines()]
    if suffix == ".parquet":
        return json.loads(pd.read_parquet(path).to_json(orient="records"))
    with Path(path).open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file, delimiter="\t" if suffix == ".tsv" else ","))


def logits_of(folder: Path, text: str) -> torch.Tensor:
    """What the model says of one text, asked directly."""
    model = modeling_dlr.DLRForSequenceClassification.from_pretrained(folder).eval()
    with torch.inference_mode():
        return model(**byte_tokenizer()(text, return_tensors="pt")).logits[0]


@pytest.mark.parametrize("suffix", WRITERS)
def test_tables(suffix: str, folders: dict[str, Path], here: Path):
    """All columns stay, empty inputs get empty cells, and every row has the answer that it has alone."""
    WRITERS[suffix](pd.DataFrame(ROWS), f"in{suffix}")
    result = run("predict", folders["classes"], f"in{suffix}", "--output", f"out{suffix}", "--batch-tokens", 50)
    assert numbers_in(result.output) == [6, 2]
    assert all(word in result.output for word in (f"out{suffix}", "label", "score")), result.output
    found = read(f"out{suffix}")
    assert [{name: row[name] for name in ("id", "text")} for row in found] == ROWS
    for row, given in zip(found, ROWS, strict=True):
        if not given["text"].strip():
            assert row["label"] in (None, "")
            assert row["score"] in (None, "")
            continue
        probabilities = logits_of(folders["classes"], given["text"]).softmax(0)
        assert row["label"] == ["good", "bad", "so, so"][probabilities.argmax()]
        assert float(row["score"]) == pytest.approx(float(probabilities.max()), abs=1e-5)
    assert sorted(path.name for path in here.iterdir()) == [f"in{suffix}", f"out{suffix}"]


def test_several_labels(folders: dict[str, Path], here: Path, tmp_path: Path):
    """Each label has a score, and is given from its threshold on."""
    predictor = Predictor(folders["several"])
    texts = [row["text"] for row in ROWS]
    predictor.task.thresholds = {"url": 0.0, "year": 1.1}
    for row in [row for row in predictor(texts) if row["score_url"] is not None]:
        chances = logits_of(folders["several"], row["text"]).sigmoid().tolist()
        assert [row[f"score_{name}"] for name in ("url", "year", "code")] == pytest.approx(chances, abs=1e-5)
        assert row["label"] == ["url", *(["code"] if chances[2] >= 0.5 else [])]


def test_numbers(folders: dict[str, Path]):
    found = Predictor(folders["number"])([row["text"] for row in ROWS])
    assert [row["value"] is None for row in found] == [False, True, False, False, True, False]
    expected = [float(logits_of(folders["number"], ROWS[place]["text"])) for place in FULL]
    assert [found[place]["value"] for place in FULL] == pytest.approx(expected, rel=1e-4, abs=1e-5)


def test_pairs(folders: dict[str, Path], here: Path):
    """Both columns are read, in the order in which they are named."""
    rows = [{"b": "one", "a": "a second text"}, {"b": "", "a": "x"}, {"b": "other", "a": "one"}]
    pd.DataFrame(rows).to_csv("in.csv", index=False)
    assert numbers_in(run("predict", folders["pairs"], "in.csv", "--output", "o.jsonl").output) == [3, 1]
    found = read("o.jsonl")
    model = modeling_dlr.DLRForSequencePairClassification.from_pretrained(folders["pairs"]).eval()
    for row in (found[0], found[2]):
        batch = byte_tokenizer()([row["b"], row["a"]], padding=True, return_tensors="pt")
        with torch.inference_mode():
            chance = model(**{name: value[None] for name, value in batch.items()}).logits.softmax(-1).max()
        assert row["score"] == pytest.approx(float(chance), abs=1e-5)
    assert found[1]["label"] is None


def test_spans_of_steps(folders: dict[str, Path], here: Path):
    """One row for every span, which together are what the model says of each character; a row without any stays."""
    pd.DataFrame(ROWS).to_csv("in.csv", index=False)
    assert run("predict", folders["tokens"], "in.csv", "--output", "o.jsonl").exit_code == 0
    model = modeling_dlr.DLRForTokenClassification.from_pretrained(folders["tokens"]).eval()
    tokenizer, found = byte_tokenizer(), read("o.jsonl")
    assert list(dict.fromkeys(row["id"] for row in found)) == [row["id"] for row in ROWS]
    for given in [ROWS[place] for place in FULL]:
        mine = [row for row in found if row["id"] == given["id"] and row["label"] is not None]
        encoded = tokenizer(given["text"], return_offsets_mapping=True, return_tensors="pt")
        offsets = encoded.pop("offset_mapping")[0].tolist()
        chances = model(**encoded).logits[0].softmax(-1)
        labels = ["O", "name", "place"]
        for at, letter in enumerate(given["text"]):
            steps = [step for step, (start, end) in enumerate(offsets) if start <= at < end]
            expected = labels[int(chances[steps].mean(0).argmax())] if steps else "O"
            here_now = [row["label"] for row in mine if row["start"] <= at < row["end"]]
            assert here_now == ([] if expected == "O" else [expected]), letter


def test_spans_by_prefixes():
    """ "B-" begins a span, "I-" goes on, whichever comes first; steps of one letter are averaged."""
    task = Task("tokens", "text", ["text"], labels=["O", "B-x", "I-x"], outside="O")
    wanted = [1, 2, 0, 2, 1, 1]
    logits = torch.full((7, 3), -9.0)
    for step, label in enumerate([*wanted, 0]):
        logits[step, label] = 9.0
    units = [(0, 1), (1, 2), (2, 3), (3, 4), (4, 5), (5, 6), (5, 6)]
    logits[6] = torch.tensor([-9.0, 8.0, -9.0])
    found = spans(task, [(Item(0, 7, {}, "abcdef", units), logits)])
    assert [(span.start, span.end, span.label) for span in found] == [
        (0, 2, "x"),
        (3, 4, "x"),
        (4, 5, "x"),
        (5, 6, "x"),
    ]
    assert found[0] == Span(0, 2, "x", pytest.approx(1.0))


@pytest.mark.parametrize("size", [4, 5, 16, 40])
def test_windows(size: int):
    """Together, without what they share, they are the text."""
    text = "the quick brown fox jumps over it"
    reader = WindowedTexts(byte_tokenizer(add_prefix_space=False), Task("tokens", "text", ["text"], max_length=size))
    items = reader.items([{"text": text}])
    assert max(item.length for item in items) <= size
    kept = [unit for item in items for unit in item.units[item.skip[0] : item.length - item.skip[1]]]
    assert kept == [(place, place + 1) for place in range(len(text))]


def test_sound_and_images(folders: dict[str, Path], here: Path):
    """Files are named by paths, from the folder of the table; of any rate and size."""
    (here / "files").mkdir()
    rng = np.random.default_rng(0)
    for name, rate in {"a.wav": 80, "b.wav": 160}.items():
        wavfile.write(here / "files" / name, rate, (3000 * rng.standard_normal(200)).astype(np.int16))
    for name, size in {"a.png": (3, 4), "b.png": (5, 2)}.items():
        Image.fromarray(rng.integers(0, 255, (*size, 3), dtype=np.uint8)).save(here / "files" / name)
    for kind, ending in {"sound": "wav", "image": "png"}.items():
        pd.DataFrame({kind: [f"a.{ending}", None, f"b.{ending}"]}).to_csv(f"files/{kind}.csv", index=False)
        result = run("predict", folders[kind], f"files/{kind}.csv", "--output", f"{kind}.jsonl")
        assert result.exit_code == 0, result.output
        found = read(f"{kind}.jsonl")
        assert [row["label"] is None for row in found] == [False, True, False]
        vectors = Embedder(folders[kind])([{kind: f"files/a.{ending}"}])[0]["embedding"]
        assert vectors.shape == (4,)
        assert run("predict", folders[kind], "files/none.csv", "--output", "o.csv").exit_code == 1
    missing = run("embed", folders["image"], "files/image.csv", "--output", "o.npy")
    assert missing.exit_code == 0, missing.output
    assert np.isnan(np.load("o.npy")).any(1).tolist() == [False, True, False]


def test_spectra(here: Path):
    """An extractor of spectra, as training chooses it, is taken from the folder."""
    extractor = ASTFeatureExtractor(num_mel_bins=4, max_length=20, sampling_rate=16_000)
    folder = folder_of(here / "model", "DLRForAudioClassification", ["a", "b"], extractor, input_size=4)
    wavfile.write("a.wav", 16_000, np.random.default_rng(0).standard_normal(4000).astype(np.float32))
    assert Predictor(folder)(["a.wav"])[0]["label"] in ("a", "b")


def test_task_of_the_folder(folders: dict[str, Path], here: Path):
    """`task.json` says which column is read, where texts are cut, and how labels are called."""
    folder = here / "model"
    folder.mkdir()
    for file in folders["classes"].iterdir():
        (folder / file.name).write_bytes(file.read_bytes())
    Task("classes", "text", ["body"], labels=["x", "y", "z"], max_length=5).save(folder)
    cut, whole = (Predictor(folder)([{"id": 1, "body": text, "text": "no"}])[0] for text in ("abcde", "abcdefgh"))
    assert cut["score"] == whole["score"]
    assert cut["label"] in ("x", "y", "z")


def test_names_that_are_taken(folders: dict[str, Path], here: Path):
    """A table with labels of its own keeps them."""
    found = Predictor(folders["classes"])([{"text": "a", "label": "mine"}])
    assert list(found[0]) == ["text", "label", "predicted_label", "predicted_score"]
    assert found[0]["label"] == "mine"
    with pytest.raises(ValueError, match="'label'"):
        Predictor(folders["classes"])([{"text": "a"}, {"text": "b", "label": "mine"}])


MIXED = [{"text": "a", "x": 1}, {"text": "b", "x": "two"}, {"text": "c", "y": [1, 2]}, {"text": "d", "x": 0.5}]


@pytest.mark.parametrize("rows", [1, 1024])
@pytest.mark.parametrize("suffix", WRITERS)
def test_cells_of_several_types(rows: int, suffix: str, folders: dict[str, Path], here: Path, monkeypatch: Any):
    """JSON lines keep every cell as it was; columns of other files have one type, in whichever part a cell lies."""
    monkeypatch.setattr("modeling_dlr.inference.parts.PART_ROWS", rows)
    Path("in.jsonl").write_text("\n".join(map(json.dumps, MIXED)))
    predict(folders["classes"], "in.jsonl", f"o{suffix}", text=["text"], progress=False)
    found = read(f"o{suffix}")
    if suffix == ".jsonl":
        assert [{name: row[name] for name in given} for row, given in zip(found, MIXED, strict=True)] == MIXED
    else:
        nothing = None if suffix == ".parquet" else ""
        assert [row["x"] for row in found] == ["1", "two", nothing, "0.5"]
        assert found[2]["y"] in ("[1, 2]", [1, 2])


def test_resumed(folders: dict[str, Path], here: Path, monkeypatch: pytest.MonkeyPatch):
    """No row is lost or doubled, whatever ended the first run; another request does not go on from its parts."""
    monkeypatch.setattr("modeling_dlr.inference.parts.PART_ROWS", 2)
    pd.DataFrame(ROWS).to_csv("in.csv", index=False)
    answer, calls = Predictor._answers, []

    def interrupted(predictor: Predictor, rows: Any) -> Any:
        calls.append([row["id"] for row in rows])
        if len(calls) == 3:
            raise KeyboardInterrupt
        return answer(predictor, rows)

    arguments = ["predict", folders["classes"], "in.csv", "--output"]
    assert run(*arguments, "whole.csv").exit_code == 0
    monkeypatch.setattr(Predictor, "_answers", interrupted)
    stopped = run(*arguments, "o.csv")
    assert (stopped.exit_code, stopped.output.count("\n")) == (130, 1)
    assert not Path("o.csv").exists()
    refused = run(*arguments, "o.csv", "--explain", "2")
    assert "o.csv.parts" in refused.output
    result = run(*arguments, "o.csv")
    assert numbers_in(result.output) == [6, 2, 4]
    assert calls == [["1", "2"], ["3", "4"], ["5", "6"], ["5", "6"]]
    assert Path("o.csv").read_text() == Path("whole.csv").read_text()
    assert sorted(path.name for path in here.iterdir()) == ["in.csv", "o.csv", "whole.csv"]


def test_killed_while_the_request_is_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """What tells parts from those of another request is whole at any time: an end between two lines leaves it so."""
    parts = Parts(tmp_path / "out.parquet", {"of": 1})
    parts.add(0, b"part")

    def cut_short(path: Path, *_: Any, **__: Any):
        path.write_bytes(b"")
        raise KeyboardInterrupt

    monkeypatch.setattr(Path, "write_text", cut_short)
    with contextlib.suppress(KeyboardInterrupt):
        parts.add(1, b"part")
    assert Parts(tmp_path / "out.parquet", {"of": 1}).finished() >= {0}
    with pytest.raises(KeyboardInterrupt):
        Parts(tmp_path / "other.parquet", {"of": 1}).add(0, b"part")
    assert not Parts(tmp_path / "other.parquet", {"of": 2}).finished()


def test_rows_are_read_part_by_part(folders: dict[str, Path], here: Path, monkeypatch: pytest.MonkeyPatch):
    """Of a table of any length, only the rows of the part that is computed are in memory."""
    monkeypatch.setattr("modeling_dlr.inference.parts.PART_ROWS", 2)
    pd.DataFrame(ROWS).to_csv("in.csv", index=False)
    answer, read, seen = Predictor._answers, [], []
    monkeypatch.setattr(
        "modeling_dlr.inference.jobs.iter_rows",
        lambda *given, **named: ((read.append(row), row)[1] for row in iter_rows(*given, **named)),
    )
    monkeypatch.setattr(Predictor, "_answers", lambda self, rows: (seen.append(len(read)), answer(self, rows))[1])
    predict(folders["classes"], "in.csv", "o.csv", progress=False)
    assert seen == [2, 4, 6]


BAD: dict[str, tuple[str, list[str], list[str]]] = {
    "no folder": ("absent", [], ["absent"]),
    "no model": ("empty", [], ["empty", "config.json"]),
    "another model": ("bert", [], ["'bert'"]),
    "a language model": ("causal", [], ["DLRForCausalLM", "DLRForSequenceClassification"]),
    "no tokenizer": ("bare", [], ["bare", "tokenizer"]),
    "no such column": ("classes", ["--text", "txet"], ["'txet'", "'text'"]),
    "which column": ("classes", ["other.csv"], ["['a', 'b']", "--text"]),
    "no rows": ("classes", ["empty.csv"], ["empty.csv", "rows"]),
    "no data": ("classes", ["absent.csv"], ["absent.csv"]),
    "output": ("classes", ["--output", "o.xlsx"], ["o.xlsx", ".csv"]),
    "device": ("classes", ["--device", "moon"], ["'moon'"]),
    "explain steps": ("tokens", ["--explain", "3"], ["tokens", "--explain"]),
}


@pytest.mark.parametrize("bad", BAD)
def test_refused(bad: str, folders: dict[str, Path], here: Path):
    """In one line, and nothing is left."""
    folder, arguments, says = BAD[bad]
    (here / "empty").mkdir()
    modeling_dlr.DLRForCausalLM(DLRConfig(hidden_size=2, state_size=1, num_hidden_layers=1)).save_pretrained("causal")
    (here / "bert").mkdir()
    Path("bert/config.json").write_text('{"model_type": "bert"}')
    (here / "bare").mkdir()
    for name in ("config.json", "model.safetensors"):
        Path("bare", name).write_bytes((folders["classes"] / name).read_bytes())
    pd.DataFrame(ROWS).to_csv("in.csv", index=False)
    Path("other.csv").write_text("a,b\n1,2\n")
    Path("empty.csv").write_text("a,b\n")
    before = sorted(here.iterdir())
    data, *rest = arguments if arguments and not arguments[0].startswith("-") else ["in.csv", *arguments]
    result = run("predict", folders.get(folder, folder), data, "--output", "o.csv", *rest)
    assert result.exit_code == 1
    assert result.output.startswith("modeling-dlr predict: ")
    assert all(part in result.output for part in says), result.output
    assert result.output.count("\n") == 1
    assert sorted(here.iterdir()) == before


@pytest.fixture
def repository(hub: hub_server.Hub, folders: dict[str, Path]) -> str:
    """A model with its task on the Hub: its branch has other names of labels than its first commit, "v1"."""
    files = {path.name: hub_server.File(path.read_bytes(), False) for path in folders["classes"].iterdir()}
    found = hub.repositories["models/me/model"] = hub_server.Repository(private=False)
    for reference, labels in {"v1": ["x", "y", "z"], "main": ["u", "v", "w"]}.items():
        task = json.dumps(vars(Task("classes", "text", ["body"], "kind", labels))).encode()
        found.commit(reference, files | {"task.json": hub_server.File(task, False)}, reference)
    return "me/model"


def test_a_repository_of_the_hub(repository: str, hub: hub_server.Hub, here: Path):
    """Its files are downloaded once, also those that say which column is read, and nothing is said of it."""
    pd.DataFrame({"body": ["a", "", "b"] * 4, "kind": [*"xyz"] * 4}).to_csv("in.csv", index=False)
    result = run("predict", repository, "in.csv", "--output", "o.jsonl", "--revision", "v1")
    assert (result.exit_code, result.output.count("\n")) == (0, 1), result.output
    answers = [row["label"] for row in read("o.jsonl")]
    assert set(answers) - {None} <= {"x", "y", "z"}
    assert [answer is None for answer in answers] == [False, True, False] * 4
    assert Predictor(repository)(["a"])[0]["label"] in ("u", "v", "w")
    result = run("evaluate", repository, "in.csv", "--revision", "v1", "--output", "scores.json")
    assert result.exit_code == 0, result.output
    assert json.loads(Path("scores.json").read_text())["data"]["rows"] == {"test": 8}
    result = run("embed", repository, "in.csv", "--output", "o.parquet")
    assert result.exit_code == 0, result.output
    assert pd.read_parquet("o.parquet")["embedding"].isna().tolist() == [False, True, False] * 4
    assert sum("safetensors" in request for request in hub.requests if request.startswith("GET")) <= 2


@pytest.mark.parametrize("command", ["predict", "embed", "evaluate", "score"])
def test_no_network(command: str, folders: dict[str, Path], here: Path, hub: hub_server.Hub, monkeypatch: Any):
    """A name that is no folder here is refused at once, in one line, without trying again."""
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", "http://127.0.0.1:9")
    monkeypatch.setattr("huggingface_hub.constants.HUGGINGFACE_CO_URL_TEMPLATE", "http://127.0.0.1:9/{repo_id}")
    monkeypatch.setattr("huggingface_hub.utils._http.time.sleep", pytest.fail)
    Path("s.fa").write_text(">a\nACGT\n")
    pd.DataFrame(ROWS).to_csv("in.csv", index=False)
    source, output = {"score": ("s.fa", "o.csv"), "evaluate": ("in.csv", "o.json")}.get(command, ("in.csv", "o.jsonl"))
    for name in ("me/model", "absent"):
        assert name in line_of(command, name, source, "--output", output)
    assert "--revision" in line_of(command, folders["classes"], source, "--output", output, "--revision", "v1")
    assert sorted(path.name for path in here.iterdir()) == ["in.csv", "s.fa"]


def line_of(command: str, *arguments: object) -> str:
    """The one line with which a command refuses its arguments."""
    result = run(command, *arguments)
    said = (result.output or str(result.exception)).strip()
    assert result.exit_code == 1
    assert said.startswith(f"modeling-dlr {command}: ")
    assert "\n" not in said
    return said


@pytest.mark.parametrize("kind", ["dlr", "bert"])
def test_embed_needs_a_tokenizer(kind: str, folders: dict[str, Path], here: Path):
    """Without the files of one, transformers makes a tokenizer that knows no word, which would give wrong vectors."""
    pd.DataFrame(ROWS).to_csv("in.csv", index=False)
    if kind == "dlr":
        shutil.copytree(folders["classes"], "model", ignore=shutil.ignore_patterns("tokenizer*"))
    else:
        size = {"hidden_size": 4, "num_hidden_layers": 1, "num_attention_heads": 1, "intermediate_size": 4}
        BertModel(BertConfig(**size, vocab_size=9)).save_pretrained("model")
    assert "tokenizer" in line_of("embed", "model", "in.csv", "--output", "o.npy")
    assert sorted(path.name for path in here.iterdir()) == ["in.csv", "model"]


@pytest.mark.parametrize("pooling", ["mean", "model"])
def test_embed_tables(pooling: str, folders: dict[str, Path], here: Path):
    """Beside all columns, or alone; the same vectors as of texts in memory, and none for an empty input."""
    pd.DataFrame(ROWS).to_csv("in.csv", index=False)
    folder = folder_of(here / "model", "DLRForSequenceClassification", ["a", "b"], pooling="max")
    result = run("embed", folder, "in.csv", "--pooling", pooling, "--output", "o.parquet")
    assert numbers_in(result.output) == [6, 2]
    table = pd.read_parquet("o.parquet")
    assert table[["id", "text"]].to_dict("records") == ROWS
    assert table["embedding"].isna().tolist() == [False, True, False, False, True, False]
    model, texts = modeling_dlr.DLRModel.from_pretrained(folder).eval(), [ROWS[place]["text"] for place in FULL]
    expected = embeddings(model, byte_tokenizer(), texts, pooling="mean" if pooling == "mean" else "max")
    np.testing.assert_allclose(np.stack(table["embedding"].dropna()), expected, rtol=1e-5, atol=1e-6)
    assert embed(folder, "in.csv", "o.npy", pooling=pooling, progress=False).rows == 6
    vectors = np.load("o.npy")
    assert vectors.dtype == np.float32
    np.testing.assert_array_equal(vectors[FULL], np.stack(table["embedding"].dropna()))
    assert np.isnan(vectors[[1, 4]]).all()
