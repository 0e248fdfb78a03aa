"""Verify folders: inspect their files, and load them in a process without this package."""

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from tiny import perturbed

from hub_upload import verify as verify_module
from hub_upload.__main__ import main
from hub_upload.card import CardOptions, write_card
from hub_upload.errors import InputError, VerificationError
from hub_upload.inspect_folder import inspect_privacy, uploaded_files
from hub_upload.samples import SAMPLES
from hub_upload.verify import verify
from modeling_dlr import DLRConfig, DLRForCausalLM, DLRForSequenceClassification
from modeling_dlr.auto_dlr import AUTO_CLASSES
from modeling_dlr.tokenization import byte_tokenizer


def make_folder(folder: Path) -> Path:
    """A small classifier of texts with tokenizer and card."""
    torch.manual_seed(0)
    config = DLRConfig(
        hidden_size=3,
        num_hidden_layers=1,
        state_size=5,
        bidirectional=True,
        pad_token_id=0,
        id2label={0: "no", 1: "yes"},
    )
    perturbed(DLRForSequenceClassification(config)).save_pretrained(folder)
    byte_tokenizer().save_pretrained(folder)
    write_card(folder, CardOptions(picture=False))
    return folder


# The Auto classes that a model of tokens serves that reads in both directions.
SERVED = [
    "AutoModel",
    "AutoModelForMaskedLM",
    "AutoModelForMultipleChoice",
    "AutoModelForNextSentencePrediction",
    "AutoModelForQuestionAnswering",
    "AutoModelForSequenceClassification",
    "AutoModelForTokenClassification",
]


def test_every_auto_class_has_a_sample():
    """So that every head is loaded when a folder is verified."""
    assert SAMPLES.keys() == AUTO_CLASSES.keys()


@pytest.fixture
def folder(ready: Path, tmp_path: Path) -> Path:
    """A copy that the tests change."""
    return Path(shutil.copytree(ready, tmp_path / "model"))


def test_ready_folder(ready: Path, capfd: pytest.CaptureFixture[str]):
    """Every Auto class has bit-identical outputs in a process that cannot import the package."""
    before = {path: path.stat().st_mtime_ns for path in ready.rglob("*")}
    assert main(["verify", str(ready)]) == 0
    facts = capfd.readouterr().out
    for auto_class in SERVED:
        assert f"ok: {auto_class} loads without this package, with bit-identical outputs" in facts
    assert facts.count("loads without this package") == len(SERVED)
    assert "ok: its pipeline has the same outputs without this package" in facts
    assert {path: path.stat().st_mtime_ns for path in ready.rglob("*")} == before


def test_other_outputs_are_found(folder: Path):
    """Code in the folder that computes something else than the installed package is a problem."""
    code = folder / "blocks_dlr.py"
    text = code.read_text(encoding="utf-8")
    assert "y = hidden_states + branch" in text
    code.write_text(text.replace("y = hidden_states + branch", "y = hidden_states + 2 * branch"), encoding="utf-8")
    with pytest.raises(VerificationError, match=r"AutoModel: .* differ by"):
        verify(folder, trust_folder_code=True)


def test_errors_of_the_other_process_are_reported(folder: Path):
    """By their last line."""
    code = folder / "configuration_dlr.py"
    code.write_text(code.read_text(encoding="utf-8") + "\nraise RuntimeError('not here')\n", encoding="utf-8")
    with pytest.raises(VerificationError, match="RuntimeError: not here"):
        verify(folder, trust_folder_code=True)


@pytest.mark.parametrize(
    ("ending", "message"),
    [
        ("raise SystemExit(3)", "without an exception, with return code 3$"),
        ("raise SystemExit('enough')", "with return code 1: enough$"),
        ("import os; os.abort()", "with return code -6$"),
    ],
    ids=["code", "words", "signal"],
)
def test_other_process_ends_without_an_exception(ending: str, message: str, folder: Path):
    """The return code is reported, not earlier output."""
    code = folder / "configuration_dlr.py"
    warning = "import sys\nprint('x.py:3: UserWarning: old\\nW0102 03:04:05 x.py: old', file=sys.stderr, flush=True)"
    code.write_text(f"{code.read_text(encoding='utf-8')}\n{warning}\n{ending}\n", encoding="utf-8")
    with pytest.raises(VerificationError, match=message):
        verify(folder, trust_folder_code=True)


def test_other_process_reaches_its_time_limit(folder: Path):
    """Output of libraries is not reported as the reason."""
    code = folder / "stop.py"
    code.write_text("import sys\n\n\ndef stop():\n    sys.exit(4)\n", encoding="utf-8")
    heads = folder / "heads_dlr.py"
    text = heads.read_text(encoding="utf-8").replace(
        "self.qa_outputs =", "from .stop import stop\n        stop()\n        self.qa_outputs =", 1
    )
    heads.write_text(text, encoding="utf-8")
    with pytest.raises(VerificationError, match=r"with return code 4$"):
        verify(folder, trust_folder_code=True)


def rewrite(name: str, pattern: str, replacement: str) -> Callable[[Path], None]:
    def spoil(folder: Path) -> None:
        text = (folder / name).read_text(encoding="utf-8")
        changed = re.sub(pattern, replacement, text, count=1)
        assert changed != text
        (folder / name).write_text(changed, encoding="utf-8")

    return spoil


def write(name: str, content: str) -> Callable[[Path], None]:
    def spoil(folder: Path) -> None:
        (folder / name).write_text(content, encoding="utf-8")

    return spoil


def write_bytes(name: str, content: bytes) -> Callable[[Path], None]:
    def spoil(folder: Path) -> None:
        (folder / name).write_bytes(content)

    return spoil


def remove(pattern: str) -> Callable[[Path], None]:
    def spoil(folder: Path) -> None:
        found = list(folder.glob(pattern))
        assert found
        for path in found:
            path.unlink()

    return spoil


def cut_weights(folder: Path) -> None:
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-100])


def spoil_number(folder: Path) -> None:
    weights = load_file(folder / "model.safetensors")
    weights["classifier.bias"][0] = torch.nan
    save_file(weights, folder / "model.safetensors", {"format": "pt"})


def with_weights(change: Callable[[dict[str, torch.Tensor]], dict[str, torch.Tensor]]) -> Callable[[Path], None]:
    def spoil(folder: Path) -> None:
        weights = change(load_file(folder / "model.safetensors"))
        save_file(weights, folder / "model.safetensors", {"format": "pt"})

    return spoil


def link_elsewhere(folder: Path) -> None:
    (folder.parent / "letter.txt").write_text("mine", encoding="utf-8")
    (folder / "notes.txt").symlink_to("../letter.txt")


def link_to_a_file_that_is_not_uploaded(folder: Path) -> None:
    (folder / ".env").write_text("PASSWORD=mine", encoding="utf-8")
    (folder / "notes.txt").symlink_to(".env")


def leave_a_path(folder: Path) -> None:
    weights = load_file(folder / "model.safetensors")
    save_file(weights, folder / "model.safetensors", {"format": "pt", "from": "/home/me/run"})


FAKE_TOKEN = "hf_" + "abcDEF123" * 4

AT_HOME = [
    ".DS_Store",
    ".env",
    ".git/config",
    ".notes.txt.swp",
    "__pycache__/modeling_dlr.cpython-311.pyc",
    "checkpoint-3/optimizer.pt",
    "logs/events.out.tfevents.1",
    "more/.ipynb_checkpoints/x.ipynb",
    "more/__pycache__/x.txt",
    "notes.tmp",
    "runs/now/log.txt",
    "trainer_state.json",
    "training_args.bin",
    "wandb/run.log",
]

SPOILED: dict[str, tuple[Callable[[Path], None], str]] = {
    "unknown architecture": (rewrite("config.json", "DLRForSequenceClassification", "Mine"), "architectures must name"),
    "unknown field": (rewrite("config.json", '"state_size"', '"stat_size"'), "its weights are not those of"),
    "field without effect": (rewrite("config.json", '"state_size": 5', '"state_size": 5.5'), "cannot be loaded"),
    "auto_map with a gap": (rewrite("config.json", r'"AutoModelForSequenceC.*\n', ""), "auto_map lacks"),
    "auto_map to no file": (rewrite("config.json", '"modeling_dlr.DLRModel"', '"other.DLRModel"'), "not there"),
    "auto_map to no class": (rewrite("config.json", '"modeling_dlr.DLRModel"', '"modeling_dlr.No"'), "no such class"),
    "missing code": (remove("ops_dlr.py"), r"imports ops_dlr\.py"),
    "import of the package": (
        rewrite("ops_dlr.py", "import torch\n", "import torch\nimport modeling_dlr\n"),
        "other users do not have",
    ),
    "import of a library": (rewrite("ops_dlr.py", "import torch\n", "import scipy\nimport torch\n"), "imports scipy"),
    "broken code": (rewrite("ops_dlr.py", "def ", "def def "), "not valid Python"),
    "code in another encoding": (write_bytes("x.py", "é = 1".encode("latin-1")), r"x\.py is not valid Python"),
    "architectures as a number": (
        rewrite("config.json", r'"architectures": \[[^\]]*\]', '"architectures": 5'),
        "it cannot be checked whether config.json",
    ),
    "auto_map as a list": (
        rewrite("config.json", r'"auto_map": \{[^}]*\}', '"auto_map": ["a"]'),
        "it cannot be checked whether auto_map",
    ),
    "key of another service": (write("notes.txt", "key: sk-" + "aB3" * 12), "looks like an access token"),
    "pickled weights": (write("pytorch_model.bin", "x"), r"pytorch_model\.bin has a type"),
    "no weights": (remove("*.safetensors"), r"no \.safetensors"),
    "cut weights": (cut_weights, r"model\.safetensors is incomplete"),
    "not a number": (spoil_number, r"not finite, in classifier\.bias"),
    "missing weights": (
        with_weights(lambda weights: {name: value for name, value in weights.items() if name != "classifier.bias"}),
        r"DLRForSequenceClassification \(missing: classifier\.bias\)",
    ),
    "weights left over": (
        with_weights(lambda weights: weights | {"other.bias": torch.zeros(2)}),
        r"\(left over: other\.bias\)",
    ),
    "misshapen weights": (
        with_weights(lambda weights: weights | {"classifier.bias": torch.zeros(1)}),
        r"classifier\.bias \[1\] instead of \[2\]",
    ),
    "weights of another head": (
        rewrite("config.json", "DLRForSequenceClassification", "DLRForQuestionAnswering"),
        r"missing: qa_outputs.*left over: classifier\.bias, classifier\.weight",
    ),
    "link": (link_elsewhere, r"notes\.txt is a link"),
    "link to what stays at home": (link_to_a_file_that_is_not_uploaded, r"notes\.txt is a link"),
    "no tokenizer": (remove("tokenizer*"), "no tokenizer loads"),
    "other padding": (
        rewrite("config.json", '"pad_token_id": 0', '"pad_token_id": 3'),
        "pads with 0, but the model with 3",
    ),
    "no card": (remove("README.md"), r"no README\.md"),
    "no license": (rewrite("README.md", "license: .*\n", ""), "names no license"),
    "no pipeline tag": (rewrite("README.md", "pipeline_tag: .*\n", ""), "pipeline_tag: text-classification"),
    "bad front-matter": (rewrite("README.md", "tags:", "tags: ]"), "front-matter cannot be read"),
    "token": (write("notes.txt", f"login with {FAKE_TOKEN}"), r"notes\.txt .*access token"),
    "path": (write("results.json", json.dumps({"command": "python /home/me/x.py"})), r"one machine, /home/me/x\.py"),
    "path of Windows": (write("results.json", json.dumps({"command": r"C:\Users\me\x.py"})), "path of one machine"),
    "path in metadata": (leave_a_path, r"model\.safetensors .*path.* /home/me/run"),
}


@pytest.mark.parametrize("spoil", SPOILED, ids=lambda name: name)
def test_damaged_folders(spoil: str, folder: Path, monkeypatch: pytest.MonkeyPatch):
    """Each problem is found in the files, before a process starts."""
    monkeypatch.setattr(verify_module.confined, "run", None)
    change, message = SPOILED[spoil]
    change(folder)
    with pytest.raises(VerificationError, match=message):
        verify(folder)


def test_all_problems_are_listed(folder: Path, capfd: pytest.CaptureFixture[str]):
    """In one error, with exit code 1."""
    for name in ("no card", "no tokenizer", "token"):
        SPOILED[name][0](folder)
    assert main(["verify", str(folder)]) == 1
    report = capfd.readouterr().err
    assert all(re.search(SPOILED[name][1], report) for name in ("no card", "no tokenizer", "token"))


def test_names_that_end_in_sk_are_no_tokens(folder: Path):
    write("notes.txt", "me/task-specific-model-of-long-documents, me/mask-filling-model-of-python-source-code")(folder)
    assert not list(inspect_privacy(folder))


WEIGHTS = "its weights are those of its architecture"


@pytest.mark.parametrize("case", ["no weights", "cut weights", "architectures as a number"])
def test_each_problem_is_reported_once(case: str, folder: Path):
    """Missing weights or a broken configuration are not reported as other weights, too."""
    SPOILED[case][0](folder)
    assert verify_module.INSPECTIONS[WEIGHTS](folder) == []


def language_model(folder: Path, tie: bool, **saving: str) -> Path:
    config = DLRConfig(hidden_size=3, num_hidden_layers=1, state_size=5, tie_word_embeddings=tie)
    DLRForCausalLM(config).save_pretrained(folder, **saving)
    return folder


def test_tied_weights_need_one_name(tmp_path: Path):
    """Weights that the head shares with the embedding are saved once."""
    assert verify_module.INSPECTIONS[WEIGHTS](language_model(tmp_path / "tied", tie=True)) == []
    alone = language_model(tmp_path / "alone", tie=False)
    with_weights(lambda weights: {name: value for name, value in weights.items() if name != "lm_head.weight"})(alone)
    assert "missing: lm_head.weight" in verify_module.INSPECTIONS[WEIGHTS](alone)[0]


def test_weights_in_several_files(tmp_path: Path):
    """The files in the index count, and no other file."""
    folder = language_model(tmp_path / "model", tie=False, max_shard_size="1KB")
    assert len(list(folder.glob("*.safetensors"))) > 1
    assert verify_module.INSPECTIONS[WEIGHTS](folder) == []
    index = folder / "model.safetensors.index.json"
    content = json.loads(index.read_text(encoding="utf-8"))
    shard = content["weight_map"]["lm_head.weight"]
    content["weight_map"] = {name: file for name, file in content["weight_map"].items() if file != shard}
    index.write_text(json.dumps(content), encoding="utf-8")
    assert "lm_head.weight" in verify_module.INSPECTIONS[WEIGHTS](folder)[0]


def test_files_that_are_not_uploaded(folder: Path):
    """Hidden files and files of a training run are neither uploaded nor inspected."""
    before = uploaded_files(folder)
    for name in AT_HOME:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(f"/home/me {FAKE_TOKEN}", encoding="utf-8")
    (folder / ".gitattributes").write_text("*.safetensors filter=lfs\n", encoding="utf-8")
    assert set(uploaded_files(folder)) == {*before, folder / ".gitattributes"}
    assert [problem for inspect in verify_module.INSPECTIONS.values() for problem in inspect(folder)] == []


def test_another_model(folder: Path, capfd: pytest.CaptureFixture[str]):
    """A folder of another model is refused with its type."""
    rewrite("config.json", '"model_type": "dlr"', '"model_type": "bert"')(folder)
    for arguments in (["verify"], ["card"], ["push", "me/model"], ["push", "me/model", "--repo-type", "space"]):
        assert main([arguments[0], str(folder), *arguments[1:]]) == 2
        assert "bert model" in capfd.readouterr().err


def test_no_model(tmp_path: Path, capfd: pytest.CaptureFixture[str]):
    """A folder without a model and a missing folder are invalid input."""
    with pytest.raises(InputError, match="holds no model"):
        verify(tmp_path)
    (tmp_path / "adapter_config.json").write_text("{}", encoding="utf-8")
    with pytest.raises(InputError, match=r"PEFT .*merge_and_unload"):
        verify(tmp_path)
    assert main(["verify", str(tmp_path / "absent")]) == 2
    assert "holds no model" in capfd.readouterr().err
