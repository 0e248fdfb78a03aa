"""Malicious folders: each is refused in plain lines, and none of its code runs."""

import json
import os
import random
import re
import shutil
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file, save_file
from test_hub_bounded import MERGES

from hub_upload import confined
from hub_upload import verify as verify_module
from hub_upload.__main__ import main
from hub_upload.confined import Finished
from hub_upload.own_code import foreign_code
from hub_upload.tiny_folders import without_documentation

MARK = "ran-by-this-process"
# Python that leaves a mark if it runs in the process of the tests.
CODE = f"import os, pathlib\nif os.environ.get('PYTEST_CURRENT_TEST'):\n    pathlib.Path('{MARK}').touch()\n"


def change_json(name: str, **entries: Any) -> Callable[[Path], None]:
    def spoil(folder: Path) -> None:
        content = json.loads((folder / name).read_text(encoding="utf-8"))
        (folder / name).write_text(json.dumps(content | entries), encoding="utf-8")

    return spoil


def write(name: str, content: str | bytes) -> Callable[[Path], None]:
    def spoil(folder: Path) -> None:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content.encode() if isinstance(content, str) else content)

    return spoil


def front_matter(text: str) -> Callable[[Path], None]:
    return write("README.md", f"---\n{text}\n---\n\n# Card\n")


def pipe(name: str) -> Callable[[Path], None]:
    def spoil(folder: Path) -> None:
        (folder / name).unlink(missing_ok=True)
        os.mkfifo(folder / name)

    return spoil


def link(name: str, target: str) -> Callable[[Path], None]:
    def spoil(folder: Path) -> None:
        (folder / name).unlink(missing_ok=True)
        (folder / name).symlink_to(target)

    return spoil


def listener(folder: Path) -> None:
    here = Path.cwd()
    os.chdir(folder)  # the names of sockets are short
    with socket.socket(socket.AF_UNIX) as end:
        end.bind("socket.json")
    os.chdir(here)


def sparse(name: str, size: int) -> Callable[[Path], None]:
    def spoil(folder: Path) -> None:
        with (folder / name).open("ab") as file:
            file.truncate(size)

    return spoil


def kernel(**entries: Any) -> Callable[[Path], None]:
    def spoil(folder: Path) -> None:
        content = json.loads((folder / "config.json").read_text(encoding="utf-8"))
        content["kernel_parameters"] |= entries
        (folder / "config.json").write_text(json.dumps(content), encoding="utf-8")

    return spoil


def code_of_tokenizer(folder: Path) -> None:
    """The files of a tokenizer with its own class."""
    write(
        "mine.py",
        CODE + "class Mine:\n    @classmethod\n    def from_pretrained(cls, *a, **k):\n        return cls()\n",
    )(folder)
    change_json("tokenizer_config.json", auto_map={"AutoTokenizer": [None, "mine.Mine"]}, tokenizer_class="Mine")(
        folder
    )


def code_of_pipeline(folder: Path) -> None:
    write("mine.py", CODE + "class Mine:\n    pass\n")(folder)
    entry = {"impl": "mine.Mine", "pt": ["AutoModelForSequenceClassification"], "type": "text"}
    change_json("config.json", custom_pipelines={"text-classification": entry})(folder)


def code_of_model(folder: Path) -> None:
    code = folder / "configuration_dlr.py"
    code.write_text(f"{code.read_text(encoding='utf-8')}\n{CODE}", encoding="utf-8")


def many_files(folder: Path) -> None:
    for i in range(99):
        (folder / f"x{i}.txt").touch()


def index_elsewhere(folder: Path) -> None:
    (folder / "model.safetensors").rename(folder.parent / "other.safetensors")
    write("model.safetensors.index.json", json.dumps({"weight_map": {"a": "../other.safetensors"}}))(folder)


def other_weights(**entries: str) -> Callable[[Path], None]:
    def spoil(folder: Path) -> None:
        weights = load_file(folder / "model.safetensors")
        save_file(weights, folder / "model.safetensors", {"format": "pt"} | entries)

    return spoil


PIPES = ["tokenizer.json", "README.md", "x.py", "results.json", "model.safetensors", "notes.txt"]

# A change of a folder, and a pattern of its error.
HOSTILE: dict[str, tuple[Callable[[Path], None], str]] = {
    # Files that never end, or hold whoever opens them.
    **{f"pipe as {name}": (pipe(name), rf"{re.escape(name)}, a pipe") for name in PIPES},
    "pipe as config": (pipe("config.json"), "holds no model"),
    "endless device": (link("README.md", "/dev/zero"), "README.md, a pipe, a socket or a device"),
    "device as weights": (link("model.safetensors", "/dev/zero"), "a pipe, a socket or a device"),
    "device as config": (link("config.json", "/dev/zero"), "holds no model"),
    "socket": (listener, "socket.json, a pipe, a socket or a device"),
    "link to itself": (link("notes.txt", "notes.txt"), "notes.txt, a link to nothing"),
    "link to nothing": (link("notes.txt", "absent"), "notes.txt, a link to nothing"),
    "link to a folder": (link("more", "/"), "more, a link to a folder"),
    "link to this folder": (link("more", "."), "more, a link to a folder"),
    "link to a file elsewhere": (link("notes.txt", "/etc/hostname"), "notes.txt is a link"),
    "large text": (sparse("notes.txt", 6 * 10**9), "notes.txt of 6,000,000,000 bytes"),
    "large tokenizer": (sparse("tokenizer.json", 6 * 10**9), "tokenizer.json of 6,000,000,000 bytes"),
    "large code": (sparse("ops_dlr.py", 10**9), "ops_dlr.py of 1,000,000,000 bytes"),
    "large config": (sparse("config.json", 2**23), "config.json has more than 4,194,304 bytes"),
    "many files": (many_files, "files, where a model has some thirty"),
    # Numbers that are believed.
    "many layers": (change_json("config.json", num_hidden_layers=10**8), "says num_hidden_layers 100,000,000"),
    "many layer types": (change_json("config.json", layer_types=["dlr"] * 10**5), "says layer_types 100,000"),
    "wide": (change_json("config.json", hidden_size=10**9), "says hidden_size 1,000,000,000"),
    "many poles": (change_json("config.json", state_size=10**6), "says state_size 1,000,000"),
    "many words": (change_json("config.json", vocab_size=10**12), "says vocab_size 1,000,000,000,000"),
    "many channels": (change_json("config.json", num_kernel_channels=10**9), "says num_kernel_channels"),
    "many heads": (change_json("config.json", num_attention_heads=10**9), "says num_attention_heads"),
    "many scales": (kernel(kernel_type="sgconv", num_scales=10**6), "says num_scales 1,000,000"),
    "some layers": (change_json("config.json", num_hidden_layers=30, layer_types=None), "says num_hidden_layers 30"),
    "two layers": (change_json("config.json", num_hidden_layers=2, layer_types=None), r"missing: .* and \d+ more"),
    "endless number": (write("config.json", '{"hidden_size": ' + "9" * 10**5 + "}"), "not valid JSON"),
    # Text that means more than it has letters, or is nested without end.
    "merges": (front_matter(MERGES), "anchors .* are not read"),
    "laughs": (front_matter("a: &a [x, x]\nb: [*a, *a]"), "anchors .* are not read"),
    "deep front-matter": (front_matter("[" * 10**5), "50 levels of nesting"),
    "front-matter of objects": (front_matter("a: !!python/object/apply:os.system [touch ran]"), "could not determine"),
    "front-matter as a list": (front_matter("- a"), "must be a mapping, got a list"),
    "long front-matter": (front_matter("a: " + "x" * 10**6), "more than 131,072 characters"),
    "unended front-matter": (write("README.md", "---\n" * 10**5), "front-matter"),
    "deep config": (write("config.json", "[" * 10**5), "not valid JSON"),
    "config as a list": (write("config.json", "[1]"), "must hold a mapping, got a list"),
    "config in latin-1": (write("config.json", '{"a": "é"}'.encode("latin-1")), "not UTF-8 text"),
    "config without an end": (write("config.json", "{"), "not valid JSON"),
    "deep code": (write("ops_dlr.py", "(" * 10**5), "ops_dlr.py .*Python"),
    "long code": (write("ops_dlr.py", "-" * 10**6 + "1"), "ops_dlr.py .*Python"),
    "zeros as code": (write("ops_dlr.py", bytes(1000)), "ops_dlr.py .*Python"),
    "tokenizer of brackets": (write("tokenizer.json", "[" * 10**5), "no tokenizer loads"),
    "zeros as weights": (write("model.safetensors", bytes(1000)), r"model\.safetensors is incomplete"),
    "header without an end": (write("model.safetensors", b"\xff" * 8 + b"{}"), r"model\.safetensors is incomplete"),
    # Code, and what would be run as such.
    "code of a tokenizer": (code_of_tokenizer, "no tokenizer loads"),
    "code of a pipeline": (code_of_pipeline, r"mine\.py.*--trust-folder-code"),
    "code of a model": (code_of_model, r"configuration_dlr\.py.*--trust-folder-code"),
    "code beside": (write("sitecustomize.py", CODE), r"sitecustomize\.py.*--trust-folder-code"),
    "code of generation": (write("custom_generate/generate.py", CODE), r"custom_generate/generate\.py.*--trust-folder"),
    "code of others": (change_json("config.json", auto_map={"AutoModel": "me/model--mine.Mine"}), "not there"),
    "name of a package": (write("torch.py", CODE), r"torch\.py.*--trust-folder-code"),
    "name of two lines": (write("a\nTraceback\x1b[31m.bin", "x"), r"a\\nTraceback\\x1b\[31m\.bin has a type"),
    "name that is no text": (write(os.fsdecode(b"a\xff.bin"), "x"), r"a\\udcff\.bin has a type"),
    "compiled code": (write("ops_dlr.so", b"\x7fELF"), "type"),
    "pickle as vocabulary": (write("vocab.json", b"\x80\x04."), r"vocab\.json is a pickle"),
    "archive as a picture": (write("kernels.png", b"PK\x03\x04"), r"kernels\.png is an archive"),
    "adapter beside": (write("adapter_config.json", '{"base_model_name_or_path": "me/other"}'), "holds an adapter"),
    "index of a file elsewhere": (index_elsewhere, "must map .*safetensors"),
    "index as a pipe": (pipe("model.safetensors.index.json"), "a pipe"),
    "secret in the weights": (other_weights(note="glpat-" + "aB3dE5fG7h" * 2), r"model\.safetensors holds what looks"),
}


@pytest.fixture
def folder(ready: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return Path(shutil.copytree(ready, tmp_path / "model"))


@pytest.fixture
def no_other_process(monkeypatch: pytest.MonkeyPatch) -> None:
    """The process that loads the folder fails."""
    monkeypatch.setattr(verify_module.confined, "run", lambda *_: Finished(1, "not here"))


needs_named_pipes = pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="needs pipes that have names")


@needs_named_pipes
@pytest.mark.parametrize("case", HOSTILE)
def test_hostile_folders(
    case: str, folder: Path, no_other_process: None, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
):
    """Refused before a process starts, in lines that a terminal can show."""
    monkeypatch.setattr("hub_upload.file_kinds._MOST_FILES", 90)
    spoil, message = HOSTILE[case]
    spoil(folder)
    assert main(["verify", str(folder)]) in (1, 2)
    printed = capfd.readouterr().err
    assert re.search(message, printed), printed
    assert "Traceback (" not in printed
    assert all(len(line) < 1000 for line in printed.splitlines())
    assert_nothing_ran(folder)


@needs_named_pipes
@pytest.mark.slow
@pytest.mark.parametrize("case", HOSTILE)
def test_hostile_folders_and_their_cards(case: str, folder: Path, capfd: pytest.CaptureFixture[str]):
    """`card` reads only the files that it needs, and refuses the same problems in them."""
    HOSTILE[case][0](folder)
    assert main(["card", str(folder), "--no-picture"]) in (0, 2)
    assert "Traceback" not in capfd.readouterr().err
    assert_nothing_ran(folder)


def assert_nothing_ran(folder: Path) -> None:
    assert not (folder.parent / MARK).exists()
    assert not (folder.parent / "ran").exists()


def damaged(content: bytes, draw: random.Random) -> bytes:
    """The content with some bytes changed, cut off, or repeated."""
    at, length = draw.randrange(len(content)), draw.randrange(1, 40)
    match draw.randrange(3):
        case 0:
            return content[:at] + draw.randbytes(length) + content[at + length :]
        case 1:
            return content[:at]
        case _:
            return content[:at] + content[at : at + length] * draw.randrange(2, 50) + content[at + length :]


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(60))
def test_damaged_folders(seed: int, folder: Path, no_other_process: None, capfd: pytest.CaptureFixture[str]):
    """A damaged file is reported in plain lines."""
    draw = random.Random(seed)
    path = draw.choice(sorted(path for path in folder.iterdir() if path.suffix != ".py" or draw.random() < 0.2))
    path.write_bytes(damaged(path.read_bytes(), draw))
    assert main(["verify", str(folder)]) in (1, 2)
    assert main(["card", str(folder), "--no-picture"]) in (0, 2)
    assert "Traceback" not in capfd.readouterr().err


def test_own_code_is_recognised(folder: Path):
    """With and without docstrings; not with one letter changed, nor in a file that we do not have."""
    assert foreign_code(folder) == []
    code = folder / "ops_dlr.py"
    text = code.read_text(encoding="utf-8")
    code.write_text(without_documentation(text), encoding="utf-8")
    assert foreign_code(folder) == []
    typed = text.replace(") -> Tensor:", ") -> print(1):", 1)  # code that runs
    for changed in (
        typed,
        f"{text}\nx = 1\n",
        f"{text}\n'x'\n",
        text.replace("def ", "async def ", 1),
        f"import os\n{text}",
    ):
        code.write_text(changed, encoding="utf-8")
        assert "ops_dlr.py" in foreign_code(folder)[0], changed[-30:]


@pytest.mark.parametrize("begin", ["# coding: {}\n", "\f\n#-*-coding={}-*-\n", "\r# vim: fileencoding: {}\r"])
@pytest.mark.parametrize("encoding", ["raw_unicode_escape", "utf-7"])
def test_code_in_another_encoding_is_not_ours(encoding: str, begin: str, folder: Path):
    """In another encoding, Python may read code in what is a comment in UTF-8."""
    code = folder / "ops_dlr.py"
    text = code.read_text(encoding="utf-8")
    hidden = "# \\u000aimport os\n" if encoding == "raw_unicode_escape" else "# +AAo-import os\n"
    code.write_bytes(f"{begin.format(encoding)}{hidden}{text}".encode())
    assert "ops_dlr.py" in foreign_code(folder)[0]


def test_only_uploaded_files_are_loaded(folder: Path, monkeypatch: pytest.MonkeyPatch):
    """The other process cannot load files that are not uploaded, code included."""
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    home = {"atfevents": "atfevents.py", "runs/mine": "runs/mine.py", ".hidden": ".hidden.py"}
    for name in home.values():
        write(name, (folder / "modeling_dlr.py").read_bytes() + CODE.encode())(folder)
    places = [f"{module}.DLRModel" for module in home]
    change_json("config.json", auto_map=config["auto_map"] | dict(zip(["AutoModel", "A", "B"], places, strict=True)))(
        folder
    )
    met = []

    def see(_: str, arguments: list[str], *__: Any) -> Finished:
        job = json.loads((Path(arguments[0]) / "job.json").read_text(encoding="utf-8"))
        met.extend(sorted(path.relative_to(job["folder"]).as_posix() for path in Path(job["folder"]).rglob("*.*")))
        return Finished(1, "not here")

    monkeypatch.setattr(verify_module.confined, "run", see)
    main(["verify", str(folder)])
    assert "config.json" in met
    assert not set(met) & set(home.values())


@pytest.mark.slow
@pytest.mark.parametrize(
    "spoil", [code_of_tokenizer, code_of_pipeline, code_of_model], ids=["tokenizer", "pipeline", "model"]
)
def test_trusted_code_runs_in_the_other_process_alone(
    spoil: Callable[[Path], None], folder: Path, monkeypatch: pytest.MonkeyPatch
):
    """With the option, the code runs without tokens in the other process, and never in this one."""
    monkeypatch.setenv("HF_TOKEN", "hf_" + "abcDEF123" * 4)
    spoil(folder)
    seen = folder.parent / "seen.json"
    parts = ", ".join(map(repr, seen.parts))  # a path as a whole would be found private
    spy = f"import json, os\nopen(os.path.join({parts}), 'w').write(json.dumps(dict(os.environ)))\n"
    for path in (folder / "mine.py", folder / "configuration_dlr.py"):
        if path.exists():
            path.write_text(f"{path.read_text(encoding='utf-8')}\n{spy}", encoding="utf-8")
    main(["verify", str(folder), "--trust-folder-code"])
    assert not (folder.parent / MARK).exists()
    if spoil is not code_of_tokenizer:  # which is refused before
        assert "HF_TOKEN" not in json.loads(seen.read_text(encoding="utf-8"))


@pytest.mark.slow
def test_malformed_outputs_of_the_other_process(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
):
    """They are read as untrusted files."""

    def nothing(job: Path) -> None:
        return

    def pipes(job: Path) -> None:
        os.mkfifo(job / "logits.safetensors")

    def brackets(job: Path) -> None:
        save_file({}, job / "logits.safetensors")
        (job / "pipeline.json").write_text("[" * 10**5, encoding="utf-8")

    def other(job: Path) -> None:
        save_file({"AutoModel": load_file(folder / "model.safetensors")["classifier.bias"]}, job / "logits.safetensors")
        (job / "pipeline.json").write_text("1", encoding="utf-8")

    unread = "outputs that cannot be read"
    differ = "AutoModel: .* differ in their form"
    for leave, message in ((nothing, unread), (pipes, unread), (brackets, unread), (other, differ)):

        def run(_script: str, _given: list[str], job: Path, *_: Any, leave: Callable[[Path], None] = leave) -> Finished:
            leave(job)
            return Finished(0, "")

        monkeypatch.setattr(confined, "run", run)
        assert main(["verify", str(folder)]) == 1
        assert re.search(message, capfd.readouterr().err)
