"""Convert checkpoints: every golden backbone, S4D and S4 layers; and refusals."""

import json
import pickle
import sys
import types
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from golden_data import GOLDEN, assert_gradients, fields, tensors
from safetensors.torch import load_file, save_file
from test_golden_models import CASES, LOSSES, WRONG_LAGS, official_logits
from tiny import assert_same_tensors
from tolerances import assert_close
from torch import Tensor
from transformers import (
    AutoModelForNextSentencePrediction,
    AutoModelForSequenceClassification,
    AutoModelForTokenClassification,
    AutoTokenizer,
)

from hub_upload import convert as convert_module
from hub_upload.card import CardOptions
from hub_upload.checkpoint import read_checkpoint
from hub_upload.errors import InputError
from modeling_dlr import DLRPreTrainedModel
from modeling_dlr.tokenization import byte_tokenizer

HYPER_PARAMETERS = json.loads((GOLDEN / "hyper_parameters.json").read_text(encoding="utf-8"))
AUTO = {
    "DLRForSequenceClassification": AutoModelForSequenceClassification,
    "DLRForSequencePairClassification": AutoModelForNextSentencePrediction,
    "DLRForTokenClassification": AutoModelForTokenClassification,
}
RIGHT = [case for case in CASES if case != WRONG_LAGS]
CASE = "b_listops_subtrees__dlr"

convert = partial(convert_module.convert, card=CardOptions(picture=False))


def numbers_of(case: str) -> dict[str, Tensor]:
    return tensors("backbones")[case]


def state_dict_of(case: str) -> dict[str, Tensor]:
    return {name.removeprefix("sd."): value for name, value in numbers_of(case).items() if name.startswith("sd.")}


def lightning_checkpoint(case: str, path: Path, **changes: Any) -> Path:
    """A file in Lightning's format, with the entries that Lightning adds."""
    checkpoint = {
        "epoch": 3,
        "pytorch-lightning_version": "1.6.0",
        "state_dict": state_dict_of(case),
        "hyper_parameters": HYPER_PARAMETERS[case],
        "optimizer_states": [{"state": {0: {"exp_avg": torch.zeros(3)}}, "param_groups": [{"lr": 1e-3}]}],
    }
    torch.save(checkpoint | changes, path)
    return path


def converted(case: str, folder: Path) -> DLRPreTrainedModel:
    """From checkpoint to folder to model, in float64."""
    model = convert(lightning_checkpoint(case, folder / "last.ckpt"), folder / "model").model
    return AUTO[type(model).__name__].from_pretrained(folder / "model").double()


def inputs_of(case: str) -> dict[str, Tensor]:
    x = numbers_of(case)["batch.0"]
    return {"input_ids": x.long()} if CASES[case]["encoder"] == "embedding" else {"input_values": x.double()}


def logits_of(case: str, model: DLRPreTrainedModel) -> Tensor:
    """The logits that the official decoder keeps.

    As there, the backbone (and its statistics) reads padding like any other step, and only the pooling leaves it out.
    Documents to compare come there as all the first ones, then all the second ones; here side by side.
    """
    data, l_output = numbers_of(case), CASES[case]["l_output"]
    states = model.model(**inputs_of(case)).last_hidden_state
    mask = torch.arange(states.shape[1]) < data["batch.2"].unsqueeze(-1) if "batch.2" in data else None
    if CASES[case]["decoder"] == "retrieval":
        states, mask = (part.unflatten(0, (2, -1)).transpose(0, 1).flatten(0, 1) for part in (states, mask))
    logits = model.predict(states, mask, None)
    return logits[:, -l_output:] if l_output else logits


@pytest.mark.parametrize("case", RIGHT)
def test_converted_model_is_the_official_one(case: str, tmp_path: Path):
    """The folder has the official logits and gradients."""
    model = converted(case, tmp_path)
    data, spec = numbers_of(case), CASES[case]
    with torch.no_grad():
        logits = logits_of(case, model.eval())
    assert_close(logits, *official_logits(case))
    model.train()
    loss = LOSSES[spec["loss"]](logits_of(case, model).flatten(0, -2), data["batch.1"])
    assert_close(loss, torch.tensor(spec["train_loss"]), "official float32")
    loss.backward()
    # In that case exp(x) - 1 in float32 moves the gradient of a frequency, measured alone, by 5.4e-4.
    kind = "official float32 gradient, exp(x) - 1" if case == "a_lra_aan__dssexp" else "official float32 gradient"
    assert_gradients(model, fields(data, "train.grad.", spec["kernel_type"]), kind)


def test_pairs_are_read_side_by_side(tmp_path: Path):
    """The head of two documents, called with its own input format, gives the same logits without padding."""
    case = "a_lra_aan__dlr"
    model = converted(case, tmp_path).eval()
    first, second = numbers_of(case)["batch.0"].long().chunk(2)
    shortest = int(numbers_of(case)["batch.2"].min())
    with torch.no_grad():
        pairs = model(input_ids=torch.stack([first, second], dim=1)[..., :shortest]).logits
        states = [model.model(input_ids=part[:, :shortest]).last_hidden_state.mean(1) for part in (first, second)]
        a, b = states
        assert_close(pairs, model.pair_classifier(torch.cat([a, b, a - b, a * b], dim=-1)), torch.float64)


def test_wrong_lags_convert_but_are_not_reproduced(tmp_path: Path):
    """The model whose official code uses wrong lags converts; only its outputs differ."""
    model = converted(WRONG_LAGS, tmp_path).eval()
    data = numbers_of(WRONG_LAGS)
    with torch.no_grad():
        states = model.model(**inputs_of(WRONG_LAGS), output_hidden_states=True).hidden_states
    assert_close(states[0][:1], data["eval.encoder_out"], "official float32")
    assert (states[-1][:1] - data["eval.backbone_out"]).abs().max() > 0.1 * data["eval.backbone_out"].abs().max()


def test_every_official_model_is_tested():
    """The cases contain those of both repositories, and the configuration of each."""
    assert len(CASES) == 43
    assert CASES.keys() == HYPER_PARAMETERS.keys()


def test_omegaconf_is_read_as_data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """A checkpoint with hyper-parameters in an OmegaConf object converts without OmegaConf."""
    monkeypatch.setitem(sys.modules, "omegaconf", None)
    case = "dssrepo_a_lra_listops__softmax"
    found = read_checkpoint(GOLDEN / "omegaconf.ckpt")
    assert_same_tensors(found.tensors, state_dict_of(case))
    assert found.hyper_parameters is not None
    assert {name: found.hyper_parameters[name] for name in HYPER_PARAMETERS[case]} == HYPER_PARAMETERS[case]
    convert(GOLDEN / "omegaconf.ckpt", tmp_path / "from_file")
    convert(lightning_checkpoint(case, tmp_path / "plain.ckpt"), tmp_path / "from_plain")
    first, second = (load_file(tmp_path / name / "model.safetensors") for name in ("from_file", "from_plain"))
    assert_same_tensors(first, second)


def test_interpolations_are_followed(tmp_path: Path):
    """An entry that refers to another has its value."""
    config = json.loads(json.dumps(HYPER_PARAMETERS[CASE]))
    config["width"] = {"kernel": config["model"]["layer"]["kernel_to_real"]}
    config["model"]["layer"]["kernel_to_real"] = "${width.kernel}"
    convert(lightning_checkpoint(CASE, tmp_path / "x.ckpt", hyper_parameters=config), tmp_path / "model")
    (tmp_path / "plain").mkdir()
    assert_same_tensors(
        load_file(tmp_path / "model" / "model.safetensors"),
        {name: value.float() for name, value in converted(CASE, tmp_path / "plain").state_dict().items()},
    )


def bare_pickle(folder: Path) -> Path:
    torch.save(state_dict_of(CASE), folder / "weights.pt")
    return folder / "weights.pt"


def bare_safetensors(folder: Path) -> Path:
    save_file(state_dict_of(CASE), folder / "weights.safetensors")
    return folder / "weights.safetensors"


def as_json(folder: Path) -> Path:
    (folder / "run.json").write_text(json.dumps(HYPER_PARAMETERS[CASE]), encoding="utf-8")
    return folder / "run.json"


def as_yaml(folder: Path) -> Path:
    """In Hydra's form: block style, a quoted empty string, null."""
    import yaml

    (folder / "run.yaml").write_text(yaml.safe_dump(HYPER_PARAMETERS[CASE]), encoding="utf-8")
    return folder / "run.yaml"


def as_flat_json(folder: Path) -> Path:
    """Only the arguments that the shapes do not give, in one mapping, as docs/hub.md shows."""
    layer = HYPER_PARAMETERS[CASE]["model"]["layer"]
    names = ("kernel_type", "version", "kernel_to_real", "Lambda_init", "d_state", "bidirectional", "activation")
    flat = {name: layer[name] for name in names} | {"postact": "glu", "transposed": True, "norm": "layer"}
    flat |= {"max_kernel_length": None, "residual": "R", "decoder": "last", "head": "token"}
    (folder / "flat.json").write_text(json.dumps(flat), encoding="utf-8")
    return folder / "flat.json"


@pytest.mark.parametrize("weights", [bare_pickle, bare_safetensors])
@pytest.mark.parametrize("settings", [as_json, as_yaml, as_flat_json])
def test_bare_weights(weights: Callable[[Path], Path], settings: Callable[[Path], Path], tmp_path: Path):
    """Weights without hyper-parameters convert to the same model with a file of hyper-parameters."""
    convert(weights(tmp_path), tmp_path / "bare", hyper_parameters=settings(tmp_path))
    (tmp_path / "whole").mkdir()
    expected = converted(CASE, tmp_path / "whole").state_dict()
    found = AutoModelForTokenClassification.from_pretrained(tmp_path / "bare").double().state_dict()
    assert_same_tensors(found, expected)


class RunsCode:
    """Its pickle calls ``function``."""

    def __init__(self, function: Callable[..., Any], *arguments: Any):
        self.call = function, arguments

    def __reduce__(self):
        return self.call


def touch(path: str) -> None:
    Path(path).touch()


def pretend_module(monkeypatch: pytest.MonkeyPatch, name: str) -> Callable[[str], None]:
    """``touch`` as a function of the module of this name, so that a pickle refers to that module."""
    module = types.ModuleType(name)
    for part in (name.split(".", maxsplit=1)[0], name):
        monkeypatch.setitem(sys.modules, part, module)
    function = types.FunctionType(touch.__code__, touch.__globals__, "touch")
    function.__module__, function.__qualname__ = name, "touch"
    module.touch = function
    return function


@pytest.mark.parametrize("place", ["hyper_parameters", "state_dict", "callbacks"])
def test_code_is_refused(place: str, tmp_path: Path):
    """A pickle with a function is refused with the function's name, and the function is not called."""
    mark = tmp_path / "mark"
    path = lightning_checkpoint(CASE, tmp_path / "x.ckpt", **{place: {"a": RunsCode(Path(mark).touch)}})
    with pytest.raises(InputError, match="was not run"):
        convert(path, tmp_path / "model")
    path = lightning_checkpoint(
        CASE, tmp_path / "y.ckpt", **{place: {"a": RunsCode(eval, f"open({str(mark)!r}, 'w')")}}
    )
    with pytest.raises(InputError, match=r"eval.*was not run"):
        convert(path, tmp_path / "model")
    assert not mark.exists()
    assert not (tmp_path / "model").exists()


@pytest.mark.parametrize("library", ["pytorch_lightning.callbacks", "omegaconf.dictconfig"])
def test_functions_of_known_libraries_do_not_run(library: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """They are replaced by placeholders, and the model converts."""
    mark = tmp_path / "mark"
    function = pretend_module(monkeypatch, library)
    callbacks = {"a": RunsCode(function, str(mark))}
    convert(lightning_checkpoint(CASE, tmp_path / "x.ckpt", callbacks=callbacks), tmp_path / "model")
    assert (tmp_path / "model" / "model.safetensors").is_file()
    assert not mark.exists()


def test_pickles_of_another_kind_are_refused(tmp_path: Path):
    """A plain pickle and a file in torch's old format run no code."""
    mark = tmp_path / "mark"
    (tmp_path / "plain.ckpt").write_bytes(pickle.dumps(RunsCode(touch, str(mark))))
    old = tmp_path / "old.ckpt"
    torch.save({"state_dict": RunsCode(touch, str(mark))}, old, _use_new_zipfile_serialization=False)
    for path in (tmp_path / "plain.ckpt", old):
        with pytest.raises(InputError):
            convert(path, tmp_path / "model")
    assert not mark.exists()


def cut(path: Path) -> Path:
    raw = path.read_bytes()
    path.write_bytes(raw[: len(raw) // 2])
    return path


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda folder: folder / "absent.ckpt", "cannot be read: No such file"),
        (lambda folder: cut(lightning_checkpoint(CASE, folder / "x.ckpt")), "fetch it again|read as data"),
        (lambda folder: cut(bare_safetensors(folder)), "not a complete safetensors"),
        (lambda folder: lightning_checkpoint(CASE, folder / "x.ckpt", state_dict={}), "empty"),
        (
            lambda folder: lightning_checkpoint(CASE, folder / "x.ckpt", state_dict={"a": 3}),
            "'a' is not a plain tensor",
        ),
        (lambda folder: lightning_checkpoint(CASE, folder / "x.ckpt", hyper_parameters=None), "kernel_type None"),
    ],
    ids=["absent", "cut off", "cut off safetensors", "empty", "no tensors", "no hyper-parameters"],
)
def test_bad_checkpoints(make: Callable[[Path], Path], message: str, tmp_path: Path):
    """Each is one error, and no folder is written."""
    path = make(tmp_path)
    with pytest.raises(InputError, match=message):
        convert(path, tmp_path / "model")
    assert not (tmp_path / "model").exists()
    assert not list(tmp_path.glob(".model*"))


def changed(**changes: Any) -> dict[str, Any]:
    """The configuration with other values in its layer, model or decoder; None in ``layer`` removes the entry."""
    config = json.loads(json.dumps(HYPER_PARAMETERS[CASE]))
    for place, entries in changes.items():
        target = config["model"] if place == "model" else config["model"]["layer"] if place == "layer" else config
        target.update(entries)
        for name in [name for name, value in entries.items() if value == "absent"]:
            del target[name]
    return config


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (changed(layer={"version": "absent"}), r"lack \['version'\]"),
        (changed(layer={"d_state": "absent"}), r"lack \['d_state'\]"),
        (changed(layer={"version": "Lambda_re"}), "version must be one of"),
        (changed(layer={"kernel_type": "lstm"}), "kernel_type 'lstm'"),
        (changed(layer={"activation": "gleu"}), "did you mean 'gelu'"),
        (changed(layer={"bidirectional": True}), r"of another shape: .*weights \[1, 16, 12, 2\] instead of \[2, 16"),
        (changed(layer={"version": "Lambda_imag"}), r"left over: .*decay_root"),
        (changed(layer={"d_state": 10**9}), r"weights \[1, 16, 12, 2\] instead of \[1, 16, 1000000000, 2\]"),
        (changed(layer={"d_state": 0}), "do not describe a model"),
        (changed(layer={"activation": ["gelu"]}), r"activation .* got \['gelu'\]"),
        (changed(layer={"postact": None}), r"out_proj.weight \[32, 16\] instead of \[16, 16\]"),
        (changed(model={"norm": "batch"}), r"missing: .*running_mean.*left over: .*norm.scale"),
        (changed(model={"norm": "group"}), "norm='group'"),
        (changed(top={"dataset": {"_name_": "mine"}}), "pass --head sequence, token or pair"),
        ({"model": {}}, "without a 'layer'"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_wrong_hyper_parameters(config: dict[str, Any], message: str, tmp_path: Path):
    """The error names the argument, or lists the tensors that do not fit."""
    path = lightning_checkpoint(CASE, tmp_path / "x.ckpt", hyper_parameters=config)
    with pytest.raises(InputError, match=message):
        convert(path, tmp_path / "model")
    assert not (tmp_path / "model").exists()


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda x: x * 1j, r"of another kind: \S+ torch.complex64 instead of torch.float32"),
        (lambda x: x.to(torch.int8), r"of another kind: \S+ torch.int8 instead of torch.float32"),
        (lambda x: x * torch.nan, r"not finite in float32: \S+"),
        (lambda x: x.double() * 0 + 1e300, r"not finite in float32: \S+"),
    ],
    ids=["complex", "integers", "not a number", "beyond float32"],
)
def test_weights_are_not_rounded(spoil: Callable[[torch.Tensor], torch.Tensor], message: str, tmp_path: Path):
    """A weight that the parameter's type cannot hold is refused."""
    state = state_dict_of(CASE)
    name = next(name for name, value in state.items() if value.dim() == 2)
    path = lightning_checkpoint(CASE, tmp_path / "x.ckpt", state_dict=state | {name: spoil(state[name])})
    with pytest.raises(InputError, match=message):
        convert(path, tmp_path / "model")
    assert not (tmp_path / "model").exists()


def test_head_of_an_unknown_data_set(tmp_path: Path):
    """With --head, a model of any data set converts."""
    config = changed(top={"dataset": {"_name_": "mine"}})
    path = lightning_checkpoint(CASE, tmp_path / "x.ckpt", hyper_parameters=config)
    assert type(convert(path, tmp_path / "model", head="sequence").model).__name__ == "DLRForSequenceClassification"


def test_existing_folders_are_kept(tmp_path: Path):
    """A folder that is not empty is refused."""
    path = lightning_checkpoint(CASE, tmp_path / "x.ckpt")
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "notes.txt").write_text("mine", encoding="utf-8")
    with pytest.raises(InputError, match="not empty"):
        convert(path, tmp_path / "model")
    assert [file.name for file in (tmp_path / "model").iterdir()] == ["notes.txt"]


def test_full_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """If the disk is full, no files are left."""

    def fail(model: DLRPreTrainedModel, folder: Path) -> None:
        (folder / "config.json").write_text("{", encoding="utf-8")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(DLRPreTrainedModel, "save_pretrained", fail)
    path = lightning_checkpoint(CASE, tmp_path / "x.ckpt")
    with pytest.raises(InputError, match="No space left on device"):
        convert(path, tmp_path / "model")
    assert [file.name for file in tmp_path.iterdir()] == ["x.ckpt"]


def test_tokenizer_is_saved(tmp_path: Path):
    """A tokenizer that is too large, or that the model does not need, is refused."""
    path = lightning_checkpoint(CASE, tmp_path / "x.ckpt")
    byte_tokenizer().save_pretrained(tmp_path / "bytes")
    with pytest.raises(InputError, match="261 tokens, but the model knows 18"):
        convert(path, tmp_path / "model", tokenizer=str(tmp_path / "bytes"))
    values = lightning_checkpoint("d_seq1d_shift__dlr", tmp_path / "y.ckpt")
    with pytest.raises(InputError, match="real values"):
        convert(values, tmp_path / "model", tokenizer=str(tmp_path / "bytes"))
    with pytest.raises(InputError, match="cannot be read as a tokenizer"):
        convert(path, tmp_path / "model", tokenizer=str(tmp_path / "nothing"))
    assert not (tmp_path / "model").exists()
    state = state_dict_of(CASE) | {"encoder.weight": torch.randn(261, 16)}
    larger = lightning_checkpoint(CASE, tmp_path / "z.ckpt", state_dict=state)
    convert(larger, tmp_path / "model", tokenizer=str(tmp_path / "bytes"))
    assert AutoTokenizer.from_pretrained(tmp_path / "model")("né").input_ids == byte_tokenizer()("né").input_ids


def test_every_data_set_has_a_head():
    """The heads of the data sets exist."""
    from hub_upload.arguments import DATA_SETS

    assert set(DATA_SETS.values()) == set(convert_module.HEADS)
