"""The command line: scores and embeddings of FASTA files, resumed, whole or not at all, and what is refused."""

import gzip
import os
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import joblib
import numpy as np
import pandas as pd
import psutil
import pytest
import torch
from tiny import perturbed, tiny_config
from tiny_striped import tiny_striped
from tokenizers.normalizers import Lowercase
from typer.testing import CliRunner, Result

import modeling_dlr.inference.parts
from hub_upload.__main__ import parser
from modeling_dlr import DLRForCausalLM, StripedHyenaModelForCausalLM
from modeling_dlr.cli import app
from modeling_dlr.cli.fasta import read_fasta
from modeling_dlr.cli.hub import VERBS
from modeling_dlr.inference import in_chunks, write_in_parts
from modeling_dlr.launch import keep_to_quota, share_processors
from modeling_dlr.scoring import embeddings, log_likelihoods
from modeling_dlr.tokenization import byte_tokenizer, evo_tokenizer

FASTA = ">a the first\nACGTac\ngtNN\n\n>b\nTTTTTGGG\n>c\nGATTACA\n"
READ = {"a": "ACGTACGTNN", "b": "TTTTTGGG", "c": "GATTACA"}
VARIANTS = "name,position,reference,alternative,note\na,2,C,T,x\nb,3,TTT,A,y\nc,7,A,AC,z\n"


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A folder of each family, with its tokenizer where that is not known."""
    place = tmp_path_factory.mktemp("models")
    tiny_striped(StripedHyenaModelForCausalLM, vocab_size=512).float().save_pretrained(place / "StripedHyena")
    perturbed(DLRForCausalLM(tiny_config(vocab_size=261))).save_pretrained(place / "DLR")
    byte_tokenizer().save_pretrained(place / "DLR")
    return {name: place / name for name in ("StripedHyena", "DLR")}


@pytest.fixture
def files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    Path("s.fa").write_text(FASTA)
    Path("s.fa.gz").write_bytes(gzip.compress(FASTA.encode()))
    Path("v.csv").write_text(VARIANTS)
    return tmp_path


def run(*arguments: object) -> Result:
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


def numbers_in(text: str) -> list[int]:
    """The whole numbers that a message says."""
    return [int(number.replace(",", "")) for number in re.findall(r"\b\d[\d,]*\b", text)]


def parts_of(folder: Path) -> tuple[torch.nn.Module, object]:
    if folder.name == "DLR":
        return DLRForCausalLM.from_pretrained(folder).eval(), byte_tokenizer()
    return StripedHyenaModelForCausalLM.from_pretrained(folder).eval(), evo_tokenizer()


@pytest.mark.parametrize("kind", ["StripedHyena", "DLR"])
def test_score_records(kind: str, models: dict[str, Path], files: Path):
    """Lower case is read as upper case, N stays; also from a compressed file, on both strands."""
    result = run("score", models[kind], "s.fa.gz", "--output", "o.parquet", "--strands", "both")
    assert result.exit_code == 0, result.output
    table = pd.read_parquet("o.parquet")
    assert table["name"].tolist() == list(READ)
    assert table["length"].tolist() == [10, 8, 7]
    expected = log_likelihoods(*parts_of(models[kind]), list(READ.values()), reduction="sum", strands="both")
    np.testing.assert_allclose(table["log_likelihood"], expected, rtol=1e-6)
    assert sorted(path.name for path in files.iterdir()) == ["o.parquet", "s.fa", "s.fa.gz", "v.csv"]


WINDOWS = {None: [("ACGTACGTNN", "ATGTACGTNN"), ("TTTTTGGG", "TTAGGG"), ("GATTACA", "GATTACAC")]}
WINDOWS[5] = [("ACGTA", "ATGTA"), ("TTTTG", "TAG"), ("TTACA"[2:], "TTACAC"[2:])]


@pytest.mark.parametrize("suffix", [".csv", ".tsv", ".parquet"])
def test_score_variants(suffix: str, models: dict[str, Path], files: Path):
    """Ratios of substitutions, deletions and insertions; columns that are not read stay."""
    result = run("score", models["StripedHyena"], "s.fa", "--variants", "v.csv", "--output", f"o{suffix}")
    assert result.exit_code == 0, result.output
    read = {".csv": pd.read_csv, ".tsv": lambda path: pd.read_csv(path, sep="\t"), ".parquet": pd.read_parquet}[suffix]
    table = read(f"o{suffix}")
    assert table["note"].tolist() == ["x", "y", "z"]
    model, tokenizer = parts_of(models["StripedHyena"])
    before, after = (
        log_likelihoods(model, tokenizer, list(texts), reduction="sum") for texts in zip(*WINDOWS[None], strict=True)
    )
    np.testing.assert_allclose(table["log_likelihood_ratio"], (after - before).numpy(), rtol=1e-4, atol=1e-5)


def test_windows(models: dict[str, Path], files: Path, monkeypatch: pytest.MonkeyPatch):
    """Only the letters around a variant are read."""
    seen = []
    monkeypatch.setattr(
        "modeling_dlr.cli.sequences.log_likelihoods",
        lambda _model, _tokenizer, texts, **_: (seen.extend(texts), torch.zeros(len(texts)))[1],
    )
    arguments = ["--variants", "v.csv", "--window", "5", "--output", "o.csv"]
    assert run("score", models["StripedHyena"], "s.fa", *arguments).exit_code == 0
    assert {"ACGTA", "ATGTA", "TTTTG", "TAG"} < set(seen)
    assert max(map(len, seen)) <= 6


@pytest.mark.parametrize("layer", [0, 1, -1])
def test_embed(layer: int, models: dict[str, Path], files: Path):
    """Any layer, of every record."""
    result = run("embed", models["DLR"], "s.fa", "--layer", layer, "--output", "sub/o.parquet")
    assert result.exit_code == 0, result.output
    table = pd.read_parquet("sub/o.parquet")
    expected = embeddings(*parts_of(models["DLR"]), list(READ.values()), layer=layer)
    np.testing.assert_allclose(np.stack(table["embedding"]), expected, rtol=1e-5, atol=1e-6)


def test_resumed(models: dict[str, Path], files: Path, monkeypatch: pytest.MonkeyPatch):
    """A run that ends early leaves its parts and no output; the next one goes on, and ends as if it never stopped."""
    monkeypatch.setattr("modeling_dlr.inference.parts.PART_LETTERS", 8)
    score, calls = log_likelihoods, []

    def interrupted(*arguments, **options):
        calls.append(arguments[2])
        if len(calls) == 3:
            raise KeyboardInterrupt
        return score(*arguments, **options)

    assert run("score", models["DLR"], "s.fa", "--output", "whole.csv").exit_code == 0
    monkeypatch.setattr("modeling_dlr.cli.sequences.log_likelihoods", interrupted)
    assert run("score", models["DLR"], "s.fa", "--output", "o.csv").exit_code != 0
    assert not Path("o.csv").exists()
    refused = run("score", models["DLR"], "s.fa", "--output", "o.csv", "--letters", "any")
    assert refused.exit_code == 1
    assert "o.csv.parts" in refused.output
    result = run("score", models["DLR"], "s.fa", "--output", "o.csv")
    assert numbers_in(result.output) == [3, 2]
    assert len(calls) == 4
    assert Path("o.csv").read_text() == Path("whole.csv").read_text()
    assert not Path("o.csv.parts").exists()


def test_nothing_is_written_over(models: dict[str, Path], files: Path, monkeypatch: pytest.MonkeyPatch):
    """Nor half a file: what takes its place is whole."""
    Path("o.csv").write_text("mine")
    result = run("score", models["DLR"], "s.fa", "--output", "o.csv")
    assert result.exit_code == 1
    assert "o.csv" in result.output
    assert Path("o.csv").read_text() == "mine"

    def disk_is_full(parts: list[Path], path: Path) -> int:
        path.write_text("half")
        raise OSError("No space left on device")

    monkeypatch.setitem(modeling_dlr.inference.parts.FORMATS, ".tsv", disk_is_full)
    result = run("score", models["DLR"], "s.fa", "--output", "o.tsv")
    assert "No space left" in result.output
    assert not Path("o.tsv").exists()


BAD: dict[str, tuple[Callable[[], object], list[str], list[str]]] = {
    "no FASTA": (lambda: Path("s.fa").write_text("ACGT\n>a\nAC\n"), [], ["s.fa", "ACGT"]),
    "empty file": (lambda: Path("s.fa").write_text(""), [], ["s.fa", "b''"]),
    "no file": (lambda: Path("s.fa").unlink(), [], ["s.fa"]),
    "broken gzip": (lambda: Path("s.fa").write_bytes(b"\x1f\x8b1234"), [], ["s.fa"]),
    "no gzip": (lambda: Path("s.fa.gz").write_text(FASTA), ["s.fa.gz"], ["s.fa.gz", "gzip"]),
    "half of a gzip": (
        lambda: Path("s.fa.gz").write_bytes(gzip.compress(f">a\n{'ACGTTGCA' * 999}\n".encode())[:-9]),
        ["s.fa.gz"],
        ["s.fa.gz"],
    ),
    "broken inside": (
        lambda: Path("s.fa.gz").write_bytes(gzip.compress(FASTA.encode())[:20] + b"\xff" * 40),
        ["s.fa.gz"],
        ["s.fa.gz"],
    ),
    "UTF-16": (lambda: Path("s.fa").write_text(FASTA, encoding="utf-16"), [], ["s.fa", "UTF-8"]),
    "a mark of Windows": (lambda: Path("s.fa").write_text(FASTA, encoding="utf-8-sig"), [], ["s.fa", "xef"]),
    "no UTF-8": (lambda: Path("s.fa").write_bytes(b">a\nAC\xffGT\n"), [], ["s.fa"]),
    "empty record": (lambda: Path("s.fa").write_text(">a\n>b\nA\n"), [], ["1, 'a'", "empty"]),
    "a header at the end": (lambda: Path("s.fa").write_text(">a\nAC\n>b"), [], ["2, 'b'", "empty"]),
    "no name": (lambda: Path("s.fa").write_text(">a\nA\n> b\nC\n>\nG\n"), [], ["3", "name"]),
    "one name twice": (lambda: Path("s.fa").write_text(">a x\nA\n>a y\nC\n"), [], ["2, 'a'", "twice"]),
    "gap": (lambda: Path("s.fa").write_text(">a\nAC-GT\n"), [], ["'a'", "'-'", "3"]),
    "RNA": (lambda: Path("s.fa").write_text(">a\nACGU\n"), [], ["'a'", "'U'", "4"]),
    "device": (lambda: None, ["--device", "moon"], ["'moon'"]),
    "no model": (lambda: None, [], ["'no/model'", "Hub"]),
    "protein": (lambda: Path("s.fa").write_text(">a\nACG\nTEL\n"), [], ["'a'", "'E'", "5"]),
    "N where only bases may be": (lambda: None, ["--letters", "acgt"], ["'a'", "'N'", "9"]),
    "no strand": (
        lambda: Path("s.fa").write_text(">a\nACEL\n"),
        ["--letters", "any", "--strands", "both"],
        ["'a'", "'E'", "3"],
    ),
    "kind of table": (lambda: None, ["--output", "o.txt"], ["o.txt", ".csv"]),
    "columns": (
        lambda: Path("v.csv").write_text("name,position\na,1\n"),
        ["--variants", "v.csv"],
        ["reference", "alternative"],
    ),
    "no rows": (
        lambda: Path("v.csv").write_text(VARIANTS.splitlines()[0] + "\n"),
        ["--variants", "v.csv"],
        ["rows"],
    ),
    "no record": (lambda: _variant("z,1,A,C,"), ["--variants", "v.csv"], ["Row 1", "'z'"]),
    "position": (lambda: _variant("a,0,A,C,"), ["--variants", "v.csv"], ["1 … 10", "'a'", "'0'"]),
    "reference": (lambda: _variant("a,1,C,T,"), ["--variants", "v.csv"], ["Row 1", "'C'", "'A'"]),
    "alternative": (lambda: _variant("a,1,A,!,"), ["--variants", "v.csv"], ["row 1", "'!'"]),
    "nothing left": (lambda: _variant("c,1,GATTACA,,"), ["--variants", "v.csv"], ["Row 1", "'c'"]),
}


def _variant(row: str) -> None:
    Path("v.csv").write_text(f"{VARIANTS.splitlines()[0]}\n{row}\n")


@pytest.mark.parametrize("bad", BAD)
def test_refused(bad: str, models: dict[str, Path], files: Path):
    """In one line, before the model is loaded, and nothing is left."""
    spoil, arguments, says = BAD[bad]
    spoil()
    before = sorted(files.iterdir())
    fasta, *arguments = arguments if arguments[:1] == ["s.fa.gz"] else ["s.fa", *arguments]
    result = run("score", "no/model", fasta, "--output", "o.csv", *arguments)
    assert result.exit_code == 1
    assert result.output.startswith("modeling-dlr score: ")
    assert all(part in result.output for part in says), result.output
    assert result.output.count("\n") == 1
    assert sorted(files.iterdir()) == before


def test_verbs_of_the_hub(models: dict[str, Path]):
    """They are the commands of `hub_upload`: its help, its messages and its exit codes; options may come first."""
    assert VERBS.keys() == set(parser()._subparsers._group_actions[0].choices)
    for verb in VERBS:
        assert run(verb, "--help").output.startswith(f"usage: modeling-dlr {verb} ")
    listed = run("--help").output
    assert all(summary in listed for summary in VERBS.values())
    refused = run("card", "--no-picture", "no/folder")
    assert refused.exit_code == 2
    assert refused.output.startswith("modeling-dlr card: ")
    assert run("verify").exit_code == 2
    assert run("card", "--no-picture", "--title", "My title", models["DLR"]).exit_code == 0
    assert "# My title" in (models["DLR"] / "README.md").read_text()


def test_the_hub_tool_is_loaded_when_called():
    """Who scores sequences never loads what publishes; and nothing is printed, though torchao is imported, too."""
    program = "import sys, modeling_dlr.cli\nassert not [name for name in sys.modules if name.startswith('hub_upload')]"
    finished = subprocess.run(
        [sys.executable, "-c", f"{program}\nassert 'torchao' in sys.modules"], capture_output=True, check=False
    )
    assert (finished.returncode, finished.stdout, finished.stderr) == (0, b"", b"")


@pytest.mark.parametrize("layer", ["4", "-5"])
def test_a_layer_that_is_not_there(layer: str, models: dict[str, Path], files: Path, monkeypatch: pytest.MonkeyPatch):
    """It is refused before the weights are loaded, and nothing is left."""
    before = sorted(files.iterdir())
    monkeypatch.setattr(StripedHyenaModelForCausalLM, "from_pretrained", pytest.fail)
    result = run("embed", models["StripedHyena"], "s.fa", "--layer", layer, "--output", "o.parquet")
    assert result.output.startswith("modeling-dlr embed: layer ")
    assert "0 … 3" in result.output
    assert f"got {layer}" in result.output
    assert sorted(files.iterdir()) == before


def test_own_tokenizer_of_a_folder(models: dict[str, Path], files: Path, tmp_path: Path):
    """A folder of Evo with a tokenizer is read by that one, here one that knows lower case only."""
    folder = shutil.copytree(models["StripedHyena"], tmp_path / "model")
    tokenizer = evo_tokenizer()
    tokenizer.backend_tokenizer.normalizer = Lowercase()
    tokenizer.save_pretrained(folder)
    assert run("score", folder, "s.fa", "--output", "o.parquet").exit_code == 0
    model, _ = parts_of(models["StripedHyena"])
    expected = log_likelihoods(model, evo_tokenizer(), [text.lower() for text in READ.values()], reduction="sum")
    np.testing.assert_allclose(pd.read_parquet("o.parquet")["log_likelihood"], expected, rtol=1e-6)


FORMS: dict[str, bytes] = {
    "Windows": FASTA.replace("\n", "\r\n").encode(),
    "old Mac": FASTA.replace("\n", "\r").encode(),
    "no end of line": FASTA.rstrip().encode(),
    "empty lines": b"\n\n" + FASTA.replace("\n", "\n\n").encode(),
    "spaces": FASTA.replace("TTTTTGGG", "TTT TTGG G ").encode(),
    "tab after the name": FASTA.replace(" the", "\tthe").encode(),
    "old comments": FASTA.replace(">b", ";of a\n>b").encode(),
    "gzip without its ending": gzip.compress(FASTA.encode()),
    "gzip in blocks": b"".join(gzip.compress(FASTA[i : i + 9].encode()) for i in range(0, len(FASTA), 9)),
}


@pytest.mark.parametrize("form", FORMS)
def test_forms_of_fasta(form: str, tmp_path: Path):
    """The same records, however they are written down."""
    (tmp_path / "s.fa").write_bytes(FORMS[form])
    assert {record.name: record.sequence for record in read_fasta(tmp_path / "s.fa", "dna")} == READ


KILLED = """
import os, runpy, signal, sys
from pathlib import Path

parts = runpy.run_path(sys.argv[2])
write_in_parts = parts["write_in_parts"]
parts["in_chunks"].__globals__["PART_LETTERS"] = 2

def compute(some):
    if 5 in some:
        os.kill(os.getpid(), signal.SIGKILL)
    return [{"i": i} for i in some]

write_in_parts(Path(sys.argv[1]), {}, parts["in_chunks"](range(8), lambda _: 1), compute)
"""


def test_killed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """What a run had done when the system ended it is there for the next one."""
    output, computed = tmp_path / "o.csv", []
    command = [sys.executable, "-c", KILLED, str(output), modeling_dlr.inference.parts.__file__]
    finished = subprocess.run(command, capture_output=True, check=False)
    assert finished.returncode == -signal.SIGKILL, finished.stderr
    assert not output.exists()
    (tmp_path / "o.csv.parts" / ".half.000000002.parquet").write_text("half of a part")
    monkeypatch.setattr(modeling_dlr.inference.parts, "PART_LETTERS", 2)

    def compute(some: list[int]) -> list[dict[str, int]]:
        computed.extend(some)
        return [{"i": i} for i in some]

    chunks = in_chunks(range(8), lambda _: 1)
    assert write_in_parts(output, {}, chunks, compute)[1:3] == (8, 4)
    assert computed == [4, 5, 6, 7]
    assert pd.read_csv(output)["i"].tolist() == list(range(8))
    assert [path.name for path in tmp_path.iterdir()] == ["o.csv"]


@pytest.mark.parametrize(("asked", "used"), [(None, 1), ("2", 2)])
def test_threads_of_a_quota(asked: str | None, used: int, monkeypatch: pytest.MonkeyPatch):
    """A quota of one processor is one thread, unless the user says how many."""
    before = torch.get_num_threads()
    monkeypatch.setattr(joblib, "cpu_count", lambda: 1)
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    if asked is not None:
        monkeypatch.setenv("OMP_NUM_THREADS", asked)
    try:
        torch.set_num_threads(2)
        keep_to_quota()
        assert torch.get_num_threads() == used
    finally:
        torch.set_num_threads(before)


def _sleeping() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name == "share_processors: sleeping"]


@pytest.mark.parametrize(("processors", "sleepers"), [(2, 1), (4, 3)])
def test_processors_are_shared_with_others(processors: int, sleepers: int, monkeypatch: pytest.MonkeyPatch):
    """Threads sleep, more than processors are left, while others need these; they end then, and after an error."""
    machine: list[float | None] = [0.0]

    def cpu_percent(seconds: float) -> float:
        time.sleep(seconds)
        if machine[0] is None:
            raise PermissionError  # the thread that asks ends
        return machine[0]

    monkeypatch.setattr(torch, "get_num_threads", lambda: 2)
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: range(processors))
    monkeypatch.setattr(psutil, "cpu_count", lambda: processors)
    monkeypatch.setattr(psutil, "cpu_percent", cpu_percent)
    monkeypatch.setattr(psutil.Process, "cpu_percent", lambda _: 0.0)
    for name in ("GOMP_SPINCOUNT", "OMP_WAIT_POLICY"):
        monkeypatch.delenv(name, raising=False)
    share_processors.__wrapped__(0.01)
    assert not _sleeping()
    for sleeping, percent in ((sleepers, 100.0), (0, 0.0), (sleepers, 100.0), (0, None)):
        machine[0] = percent
        deadline = time.monotonic() + 30
        while len(_sleeping()) != sleeping and time.monotonic() < deadline:
            time.sleep(0.01)
        assert len(_sleeping()) == sleeping
    for thread in threading.enumerate():
        if thread.name == "share_processors":
            thread.join(30)
            assert not thread.is_alive()


@pytest.mark.parametrize(("name", "threads"), [("GOMP_SPINCOUNT", 2), ("OMP_WAIT_POLICY", 2), ("NONE", 1)])
def test_nothing_is_shared(name: str, threads: int, monkeypatch: pytest.MonkeyPatch):
    """No thread watches the machine where the user says how threads wait, or there is only one."""
    for chosen in ("GOMP_SPINCOUNT", "OMP_WAIT_POLICY"):
        monkeypatch.delenv(chosen, raising=False)
    monkeypatch.setenv(name, "0")
    monkeypatch.setattr(torch, "get_num_threads", lambda: threads)
    before = threading.active_count()
    share_processors.__wrapped__()
    assert threading.active_count() == before
