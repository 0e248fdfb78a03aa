"""Compiled and exported models have the outputs of plain ones: all kernels, directions, attention, streaming."""

from typing import Any

import pytest
import torch
from families import FAMILIES
from test_hybrids import HYBRIDS, SIZES
from tiny import EXAMPLES, perturbed, tiny_config
from torch import Tensor, nn
from torch._dynamo.testing import CompileCounter
from torch.export import Dim
from transformers import DynamicCache

from modeling_dlr import DLRForCausalLM, DLRForSequenceClassification, DLRForTokenClassification
from modeling_dlr.auto_dlr import AUTO_CLASSES
from modeling_dlr.heads_dlr import DLRPooledHead

# Models by their fields: one that always runs, hybrids, and every kernel in a layer of its own.
SLOW = {name: SIZES | fields for name, fields in HYBRIDS.items()} | {
    f"kernel {name}": {"kernel_parameters": family.options, "num_hidden_layers": 1} for name, family in FAMILIES.items()
}
MODELS = [pytest.param({}, id="DLR")] + [
    pytest.param(fields, id=name, marks=pytest.mark.slow) for name, fields in SLOW.items()
]
JOINED = ("AutoModelForMultipleChoice", "AutoModelForNextSentencePrediction")
by_model = pytest.mark.parametrize("fields", MODELS)
by_direction = pytest.mark.parametrize("bidirectional", [False, True], ids=["causal", "bidirectional"])

# Those of several sequences per example are tried at each change, for they alone join what is left open.
HEADS = [pytest.param(name, marks=() if name in JOINED else pytest.mark.slow) for name in EXAMPLES]


def batch_of(batch: int, length: int) -> dict[str, Tensor]:
    """Tokens, the first row padded on the left and the last on the right."""
    mask = torch.ones(batch, length, dtype=torch.long)
    mask[0, : length // 3] = 0
    mask[-1, length - length // 4 :] = 0
    return {"input_ids": torch.randint(1, 11, (batch, length)), "attention_mask": mask}


def gradients_of(model: nn.Module) -> dict[str, Tensor]:
    return {name: parameter.grad.clone() for name, parameter in model.named_parameters()}


@by_direction
@by_model
def test_compiled_training_step(fields: dict[str, Any], bidirectional: bool):
    """torch.compile takes forward and backward in one graph, and gives the same loss and gradients."""
    model = perturbed(DLRForSequenceClassification(tiny_config(bidirectional=bidirectional, **fields))).double()
    inputs = batch_of(2, 17) | {"labels": torch.tensor([0, 1])}
    expected = model(**inputs).loss
    expected.backward()
    gradients = gradients_of(model)
    model.zero_grad()
    torch._dynamo.reset()
    loss = torch.compile(model, fullgraph=True, backend="aot_eager")(**inputs).loss
    loss.backward()
    torch.testing.assert_close(loss, expected, rtol=1e-10, atol=1e-10)
    for name, value in gradients_of(model).items():
        torch.testing.assert_close(value, gradients[name], rtol=1e-8, atol=1e-9, msg=name)


@torch.no_grad()
def test_compiled_for_every_batch_and_length():
    """What comes first only when sizes have become symbolic (labels, a mask, positions) fits no worse for it."""
    model = perturbed(DLRForSequenceClassification(tiny_config(problem_type="single_label_classification"))).eval()
    torch._dynamo.reset()
    compiled = torch.compile(model, fullgraph=True, backend="aot_eager")
    for batch, length, more in (
        (2, 9, {}),
        (3, 7, {}),
        (2, 9, {"labels": torch.tensor([0, 1])}),
        (3, 8, {"attention_mask": torch.ones(3, 8, dtype=torch.long)}),
        (3, 7, {"position_ids": torch.arange(7).unsqueeze(0)}),
    ):
        inputs = {"input_ids": torch.randint(1, 11, (batch, length)), **more}
        torch.testing.assert_close(compiled(**inputs).logits, model(**inputs).logits, rtol=1e-5, atol=1e-6)


@by_direction
@torch.no_grad()
def test_new_sizes_do_not_recompile(bidirectional: bool):
    """After two sizes, any batch and length uses the compiled graph, padded or not."""
    model = perturbed(DLRForSequenceClassification(tiny_config(bidirectional=bidirectional))).eval()
    torch._dynamo.reset()
    counter = CompileCounter()
    compiled = torch.compile(model, fullgraph=True, backend=counter)
    counts = []
    for batch, length in ((2, 9), (3, 7), (5, 31), (4, 300), (7, 8)):
        inputs = batch_of(batch, length)
        torch.testing.assert_close(compiled(**inputs).logits, model(**inputs).logits, rtol=1e-5, atol=1e-5)
        counts.append(counter.frame_count)
    assert counts[1:] == [2] * 4


@pytest.mark.parametrize("fields", [{}, SIZES | HYBRIDS["one of each"]], ids=["DLR", "hybrid"])
@torch.no_grad()
def test_compiled_steps_from_a_cache(fields: dict[str, Any]):
    """A graph of one step serves every later one: torch gives up where each would need its own."""
    model = perturbed(DLRForCausalLM(tiny_config(**fields))).eval()
    ids = torch.randint(1, 11, (2, 15))
    torch._dynamo.reset()
    step = torch.compile(model, fullgraph=True, backend="aot_eager")
    cache = DynamicCache(config=model.config)
    logits = [step(token, cache=cache, use_cache=True).logits for token in ids.split(1, dim=1)]
    torch.testing.assert_close(torch.cat(logits, dim=1), model(ids).logits, rtol=1e-4, atol=1e-5)


@by_direction
@by_model
@torch.no_grad()
def test_exported_for_every_batch_and_length(fields: dict[str, Any], bidirectional: bool):
    """One torch.export serves every batch size and length, down to one step."""
    model = perturbed(DLRForTokenClassification(tiny_config(bidirectional=bidirectional, **fields))).eval()
    axes = {0: Dim.DYNAMIC, 1: Dim.DYNAMIC}
    program = torch.export.export(
        model, (), batch_of(2, 33), dynamic_shapes={"input_ids": axes, "attention_mask": axes}, strict=False
    ).module()
    for batch, length in ((1, 1), (2, 7), (3, 63), (5, 71)):
        inputs = batch_of(batch, length)
        counts = inputs["attention_mask"].bool()
        logits, expected = program(**inputs).logits[counts], model(**inputs).logits[counts]
        torch.testing.assert_close(logits, expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("auto", HEADS)
@torch.no_grad()
def test_every_head_exported_for_every_size(auto: str):
    """Each head answers as the plain one at sizes it was not exported with, of every axis that may vary."""
    example, model_class = EXAMPLES[auto], AUTO_CLASSES[auto]
    config = tiny_config(**example.fields, num_hidden_layers=1)
    model = perturbed(model_class(config)).eval()

    def draw(batch: int, length: int) -> dict[str, Tensor]:
        inputs = example.inputs(config, batch, length)
        if issubclass(model_class, DLRPooledHead) and "input_ids" in inputs:
            inputs["attention_mask"] = torch.ones_like(inputs["input_ids"])
            inputs["attention_mask"][0, ..., : length // 3] = 0
        return inputs

    # Channels of images, and the two documents of a pair.
    fixed = 1 if auto == "AutoModelForNextSentencePrediction" or "input_size" in example.fields else None
    axes = {
        name: {axis: Dim.DYNAMIC for axis in range(value.dim()) if axis != fixed or value.dim() == 2}
        for name, value in draw(3, 9).items()
    }
    program = torch.export.export(model, (), draw(3, 9), dynamic_shapes=axes, strict=False).module()
    for batch, length in ((1, 1), (2, 7), (5, 71)):
        inputs = draw(batch, length)
        torch.testing.assert_close(dict(program(**inputs)), dict(model(**inputs)), rtol=1e-4, atol=1e-4)


class Step(nn.Module):
    """One token and the states before it, two tensors per layer, to its logits and the states after it."""

    def __init__(self, model: DLRForCausalLM):
        super().__init__()
        self.model = model

    def forward(self, token: Tensor, *states: Tensor) -> tuple[Tensor, ...]:
        cache = DynamicCache(config=self.model.config)
        for layer, real, imag in zip(cache.layers, states[::2], states[1::2], strict=True):
            layer.update(real, imag, steps=1)
        output = self.model(token, cache=cache, use_cache=True)
        assert output.cache is cache
        return output.logits, *(part for layer in cache.layers for part in layer.contents())


@torch.no_grad()
def test_exported_step_with_its_state():
    """The state as input and output of one exported step streams a sequence as the whole is read, in any batch."""
    model = perturbed(DLRForCausalLM(tiny_config())).eval()
    shape = model.config.hidden_size, model.config.state_size
    example = torch.ones(2, 1, dtype=torch.long), *(torch.zeros(2, *shape) for _ in range(4))
    axes = {0: Dim.DYNAMIC}
    program = torch.export.export(Step(model).eval(), example, dynamic_shapes=(axes, (axes,) * 4)).module()
    ids, states, logits = torch.randint(1, 11, (3, 15)), [torch.zeros(3, *shape) for _ in range(4)], []
    for token in ids.split(1, dim=1):
        answer, *states = program(token, *states)
        logits.append(answer)
    torch.testing.assert_close(torch.cat(logits, dim=1), model(ids).logits, rtol=1e-4, atol=1e-5)


@torch.no_grad()
def test_attention_is_not_exported_with_a_cache():
    """A cache of attention layers, whose length an export would make a constant, is refused."""
    model = perturbed(DLRForCausalLM(tiny_config(**SIZES | HYBRIDS["one of each"]))).eval()
    ids = torch.ones(2, 1, dtype=torch.long)
    with pytest.raises(ValueError, match="cannot be exported with a cache"):
        torch.export.export(model, (ids,), {"use_cache": True}, strict=False)


@pytest.mark.parametrize("reentrant", [False, True], ids=["new", "reentrant"])
@pytest.mark.parametrize("fields", HYBRIDS.values(), ids=HYBRIDS.keys())
def test_checkpointing_changes_no_gradient(fields: dict[str, Any], reentrant: bool):
    """Both kinds of gradient checkpointing give the gradients of none, in hybrids as well."""
    gradients = []
    model = perturbed(DLRForTokenClassification(tiny_config(**SIZES | fields)).train()).double()
    inputs = batch_of(2, 17) | {"labels": torch.randint(4, (2, 17))}
    for checkpointed in (False, True):
        if checkpointed:
            model.activation_checkpointing_enable({"use_reentrant": reentrant})
        model.zero_grad()
        model(**inputs).loss.backward()
        gradients.append(gradients_of(model))
    for name, value in gradients[1].items():
        torch.testing.assert_close(value, gradients[0][name], rtol=1e-10, atol=1e-12, msg=name)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("fields", [{}, SIZES | HYBRIDS["one of each"]], ids=["DLR", "hybrid"])
@by_direction
def test_half_types(fields: dict[str, Any], bidirectional: bool, dtype: torch.dtype):
    """Half-precision weights and autocast stay within the rounding of that type, and gradients are finite."""
    model = perturbed(DLRForSequenceClassification(tiny_config(bidirectional=bidirectional, **fields))).train()
    inputs = batch_of(3, 23) | {"labels": torch.tensor([0, 1, 2])}
    expected = model(**inputs).logits
    bound = 40 * torch.finfo(dtype).eps * expected.abs().max()
    with torch.autocast("cpu", dtype):
        automatic = model(**inputs)
    halved = model.to(dtype)(**inputs)
    for output in (automatic, halved):
        assert (output.logits - expected).abs().max() < bound
    halved.loss.backward()
    assert all(parameter.grad.isfinite().all() for parameter in model.parameters())
