"""The examples that a reader copies: short, complete in themselves, and what they print is true."""

import ast
import http.client
import json
import re
import runpy
import threading
from pathlib import Path
from typing import Any

import pytest
from transformers import set_seed

import make
from modeling_dlr import DLRConfig, DLRForSequenceClassification
from modeling_dlr.tokenization import byte_tokenizer

EXAMPLES = Path(__file__).resolve().parent.parent / "examples"

# What each script calls its result, and the least that it must be (of differences, the most).
LEAST: dict[str, tuple[str, float]] = {
    "texts": ("accuracy", 0.95),
    "several_labels": ("micro_f1", 0.95),
    "regression": ("r2", 0.9),
    "label_bytes": ("accuracy", 0.8),
    "dna": ("f1", 0.85),
    "sounds": ("accuracy", 0.9),
    "images": ("accuracy", 0.9),
    "streaming": ("accuracy", 0.95),
    "adapters": ("merged_score", 0.95),
    "sentence_embeddings": ("accuracy", 0.5),
}
MOST: dict[str, tuple[str, float]] = {"streaming": ("difference", 1e-3), "export_onnx": ("difference", 1e-4)}
# Scripts that train for as long as their command line says.
DEMOS = [*(Path(step[0]).stem for step in make.COMMANDS["demo"]), "fill_code"]
SCRIPTS = [path.stem for path in sorted(EXAMPLES.glob("*.py"))]


def test_every_script_has_a_test_and_is_listed():
    assert set(SCRIPTS) == {*LEAST, *MOST, *DEMOS, "serving", "walkthrough", "check_evo"}
    page = (EXAMPLES.parent / "docs" / "examples.md").read_text(encoding="utf-8")
    assert sorted(re.findall(r"\(\.\./examples/(\w+)\.py\)", page)) == SCRIPTS


@pytest.mark.parametrize("name", SCRIPTS)
def test_short_and_complete(name: str):
    """At most 80 lines, which import nothing that lies beside them."""
    source = (EXAMPLES / f"{name}.py").read_text(encoding="utf-8")
    assert len(source.splitlines()) <= 80
    imported = {
        (node.module or "").split(".")[0] if isinstance(node, ast.ImportFrom) else alias.name.split(".")[0]
        for node in ast.walk(ast.parse(source))
        if isinstance(node, (ast.Import, ast.ImportFrom))
        for alias in node.names
    }
    assert not imported & {path.stem for path in EXAMPLES.glob("*.py")}


@pytest.fixture
def ran(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Runs a script in an empty folder, and gives what it calls by names."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "cache")
    return lambda name, **names: runpy.run_path(str(EXAMPLES / f"{name}.py"), **names)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning")
@pytest.mark.parametrize("name", sorted({*LEAST, *MOST}))
def test_result(name: str, ran: Any):
    """The script reaches what it shows, on rows that it was not trained on."""
    found = ran(name)
    if name in LEAST:
        result, least = LEAST[name]
        assert found[result] >= least
    if name in MOST:
        result, most = MOST[name]
        assert found[result] <= most


@pytest.mark.slow
def test_news(ran: Any, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]):
    """The demo trains, and answers sentences with the topics of the articles."""
    monkeypatch.setattr("sys.argv", ["news.py", "0.1"])
    found = ran("news")
    assert found["report"].rows["test"] > 200
    topics = {"business", "entertainment", "politics", "sports", "tech"}
    assert topics == set(found["report"].task.labels)
    printed = capsys.readouterr().out
    assert [answer["label"] in topics and answer["text"] in printed for answer in found["answers"]] == [True] * 3


@pytest.mark.slow
def test_colour_code(ran: Any, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]):
    """The demo labels what the tokenizer of Python says, and prints a file that was not trained on."""
    monkeypatch.setattr("sys.argv", ["colour_code.py", "0.1"])
    found = ran("colour_code")
    source = 'if x:  # no\n    y = """a\nb""" + 1'
    spans = [(source[span["start"] : span["end"]], span["label"]) for span in found["spans"](source)]
    assert spans == [
        ("if", "keyword"), ("x", "name"), (":", "operator"), ("# no", "comment"), ("y", "name"), ("=", "operator"),
        ('"""a\nb"""', "string"), ("+", "operator"), ("1", "number"),
    ]  # fmt: skip
    assert found["report"].task.labels[1:] == sorted(found["STYLES"])
    assert found["shown"] not in found["texts"]
    assert found["shown"][:1500].splitlines()[1] in capsys.readouterr().out


@pytest.mark.slow
def test_fill_code(ran: Any, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]):
    """Only masked bytes are scored, the simpler model is as good as ever, and the saved model fills every line."""
    monkeypatch.setattr("sys.argv", ["fill_code.py", "3"])
    found = ran("fill_code")
    assert 0 <= found["filled"] < 0.3 < found["baseline"] < 0.5
    assert capsys.readouterr().out.count("<mask>") == 3


def test_serving(ran: Any, tmp_path: Path):
    """Requests at once are answered each, wrong ones are told why, and the server goes on."""
    set_seed(0)
    tokenizer = byte_tokenizer()
    fields: dict[str, Any] = {"hidden_size": 4, "num_hidden_layers": 1, "state_size": 3, "bidirectional": True}
    config = DLRConfig(**fields, vocab_size=len(tokenizer), pad_token_id=0, id2label={0: "good", 1: "bad"})
    DLRForSequenceClassification(config).save_pretrained(tmp_path / "model")
    tokenizer.save_pretrained(tmp_path / "model")
    with ran("serving")["server"](str(tmp_path / "model"), 0) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()

        def ask(body: str) -> tuple[int, dict[str, Any]]:
            connection = http.client.HTTPConnection(*server.server_address[:2], timeout=60)
            connection.request("POST", "/", body)
            response = connection.getresponse()
            return response.status, json.loads(response.read())

        answers: dict[str, tuple[int, dict[str, Any]]] = {}
        texts = [f"text {i} " * (1 + i) for i in range(8)]

        def asked(text: str) -> None:
            answers[text] = ask(json.dumps({"text": text}))

        threads = [threading.Thread(target=asked, args=(text,)) for text in texts]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert all(status == 200 and answer["text"] == text for text, (status, answer) in answers.items())
        assert len(answers) == len(texts)
        for wrong in ("", "no JSON", "[]", '{"txt": "a"}'):
            status, answer = ask(wrong)
            assert status == 400
            assert "error" in answer
        assert ask('{"text": "again"}')[1]["label"] in ("good", "bad")
        server.shutdown()
