"""The examples that a reader copies: short, complete in themselves, and what they print is true."""

import ast
import http.client
import json
import runpy
import threading
from pathlib import Path
from typing import Any

import pytest
from transformers import set_seed

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
SCRIPTS = sorted({*LEAST, *MOST, "serving", "walkthrough"})


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
