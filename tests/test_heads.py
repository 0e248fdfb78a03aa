"""Every head: inputs, outputs, loss, and learning."""

from typing import Any
from unittest.mock import Mock

import numpy as np
import pytest
import torch
from PIL import Image
from tiny import EXAMPLES, Example, gradients_of, perturbed, tiny_config
from torch import Tensor
from torch.nn import functional
from transformers import AutoModelForImageClassification, PreTrainedModel

from modeling_dlr import (
    DLRForCausalLM,
    DLRForMaskedLM,
    DLRForMultipleChoice,
    DLRForSequenceClassification,
    DLRForSequencePairClassification,
)
from modeling_dlr import modeling_dlr as backbone
from modeling_dlr.auto_dlr import AUTO_CLASSES
from modeling_dlr.heads_dlr import DLRHead
from modeling_dlr.losses_dlr import POOLINGS
from modeling_dlr.signal_heads_dlr import raster

by_auto_class = pytest.mark.parametrize("auto_class", AUTO_CLASSES)
by_head = pytest.mark.parametrize("auto_class", [name for name in AUTO_CLASSES if name != "AutoModel"])
by_size = pytest.mark.parametrize("size", [(1, 1), (3, 7), (2, 63), (1, 100)], ids=str)

# One row per head: the logits' shape for a batch of b and a length of n.
SHAPES: dict[str, Any] = {
    "AutoModelForAudioClassification": lambda b, n: (b, 4),
    "AutoModelForAudioFrameClassification": lambda b, n: (b, n, 4),
    "AutoModelForCausalLM": lambda b, n: (b, n, 11),
    "AutoModelForImageClassification": lambda b, n: (b, 4),
    "AutoModelForMaskedLM": lambda b, n: (b, n, 11),
    "AutoModelForMultipleChoice": lambda b, n: (b, 3),
    "AutoModelForNextSentencePrediction": lambda b, n: (b, 4),
    "AutoModelForQuestionAnswering": lambda b, n: (b, n),
    "AutoModelForSemanticSegmentation": lambda b, n: (b, 4, 2, n),
    "AutoModelForSequenceClassification": lambda b, n: (b, 4),
    "AutoModelForTokenClassification": lambda b, n: (b, n, 4),
}


def build(auto_class: str, **fields: Any) -> tuple[PreTrainedModel, Example]:
    example = EXAMPLES[auto_class]
    return perturbed(AUTO_CLASSES[auto_class](tiny_config(**example.fields | fields))), example


def logits_of(output: Any) -> Tensor:
    """The logits; those of the first step for question answering."""
    return output["start_logits" if "start_logits" in output else "logits"]


def test_every_auto_class_has_an_example():
    """The tables of the tests cover every Auto class, and every head has a shape."""
    assert EXAMPLES.keys() == AUTO_CLASSES.keys()
    assert SHAPES.keys() == AUTO_CLASSES.keys() - {"AutoModel"}


@by_head
@by_size
def test_shapes_and_gradients(auto_class: str, size: tuple[int, int], device: torch.device):
    """A head answers in its shape at every length, and its loss reaches every parameter."""
    model, example = build(auto_class)
    arguments = {name: value.to(device) for name, value in example.arguments(model.config, *size).items()}
    output = model.to(device)(**arguments)
    assert logits_of(output).shape == SHAPES[auto_class](*size)
    output.loss.backward()
    assert all(gradient.isfinite().all() for gradient in gradients_of(model).values())


@by_head
def test_tuples(auto_class: str):
    """return_dict=False gives loss and logits in a tuple."""
    model, example = build(auto_class)
    arguments = example.arguments(model.eval().config)
    output, as_tuple = model(**arguments), model(**arguments, return_dict=False)
    assert isinstance(as_tuple, tuple)
    assert torch.equal(as_tuple[0], output.loss)
    assert torch.equal(as_tuple[1], logits_of(output))


@by_auto_class
def test_hidden_states(auto_class: str):
    """output_hidden_states works for every head: the embeddings and every block."""
    model, example = build(auto_class)
    output = model(**example.inputs(model.config, 2, 7), output_hidden_states=True)
    assert len(output.hidden_states) == 3


@by_head
def test_one_batch_overfits(auto_class: str):
    """Every head learns the labels of one batch."""
    example = EXAMPLES[auto_class]
    # A causal model of random tokens, of random frames or of a random answer must tell all prefixes apart.
    config = tiny_config(**example.fields | {"hidden_size": 24, "state_size": 17})
    model = AUTO_CLASSES[auto_class](config)
    arguments = example.arguments(config, 4, 5)
    optimizer = torch.optim.Adam(model.parameters(), lr=0.03)
    losses = []
    for _ in range(80):
        optimizer.zero_grad()
        losses.append(model(**arguments).loss)
        losses[-1].backward()
        optimizer.step()
    assert losses[-1] < 0.25 * losses[0], losses[-1]


@by_head
def test_main_input(auto_class: str):
    """A model names the argument that pipelines and the Trainer should fill."""
    model, example = build(auto_class)
    (name,) = example.inputs(model.config, 1, 7)
    assert model.main_input_name == name


@by_head
def test_main_input_by_position(auto_class: str):
    """The first argument is what the model reads; the mask follows it, for all but images."""
    model, example = build(auto_class)
    ((name, values),) = example.inputs(model.config, 2, 7).items()
    masks = [] if name == "pixel_values" else [torch.ones_like(values, dtype=torch.long)]
    assert torch.equal(logits_of(model(values, *masks)), logits_of(model(**{name: values})))


def test_language_losses():
    """A causal model predicts the next token, a masked one the token itself; -100 is ignored, everywhere if need be."""
    for head, shift in ((DLRForCausalLM, 1), (DLRForMaskedLM, 0)):
        model = perturbed(head(tiny_config(bidirectional=head is DLRForMaskedLM))).double()
        ids = torch.randint(1, 11, (2, 7))
        labels = ids.clone()
        labels[:, 3] = -100
        output = model(input_ids=ids, labels=labels)
        logits, targets = output.logits[:, : 7 - shift], labels[:, shift:]
        expected = functional.cross_entropy(logits.flatten(0, 1), targets.flatten())
        torch.testing.assert_close(output.loss, expected)
        nothing = model(input_ids=ids, labels=torch.full_like(ids, -100)).loss
        nothing.backward()
        assert nothing == 0
        assert not any(gradient.any() for gradient in gradients_of(model).values())


def test_logits_to_keep():
    """A language model computes only the logits that are asked for."""
    model = perturbed(DLRForCausalLM(tiny_config())).eval()
    ids = torch.randint(1, 11, (2, 7))
    full = model(input_ids=ids).logits
    torch.testing.assert_close(model(input_ids=ids, logits_to_keep=2).logits, full[:, -2:])
    torch.testing.assert_close(model(input_ids=ids, logits_to_keep=torch.tensor([0, 3])).logits, full[:, [0, 3]])


def test_choices_are_scored_separately():
    """The score of a choice does not depend on other choices or on padding."""
    model = perturbed(DLRForMultipleChoice(tiny_config(bidirectional=True))).eval()
    ids = torch.randint(1, 11, (2, 3, 7))
    mask = torch.ones_like(ids)
    mask[0, 1, 4:] = 0
    logits = model(input_ids=ids, attention_mask=mask).logits
    alone = model(input_ids=ids[:1, 1:2, :4]).logits
    torch.testing.assert_close(logits[:1, 1:2], alone, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("auto_class", ["AutoModelForMultipleChoice", "AutoModelForNextSentencePrediction"])
def test_positions_of_several_sequences(auto_class: str):
    """Heads of several sequences per example take the positions that a collator counts, and padding moves none."""
    model, example = build(auto_class)
    inputs = example.inputs(model.eval().config, 2, 7)
    mask = torch.ones_like(inputs["input_ids"])
    mask[0, 0, 5:] = 0
    inputs["attention_mask"] = mask
    positions = (mask.cumsum(-1) - 1).clamp(min=0)
    assert torch.equal(model(**inputs, position_ids=positions).logits, model(**inputs).logits)


def test_loss_of_answers():
    """The loss of a span is the mean of its two ends' cross-entropies; an end outside the sequence is ignored."""
    model, _ = build("AutoModelForQuestionAnswering")
    ids, starts, ends = torch.randint(1, 11, (3, 7)), torch.tensor([0, 2, 9]), torch.tensor([6, 7, 9])
    output = model.eval()(input_ids=ids, start_positions=starts, end_positions=ends)
    expected = functional.cross_entropy(output.start_logits[:2], starts[:2]) / 2
    expected = expected + functional.cross_entropy(output.end_logits[:1], ends[:1]) / 2
    torch.testing.assert_close(output.loss, expected)
    column = model(input_ids=ids, start_positions=starts[:, None], end_positions=ends[:, None])
    assert torch.equal(column.loss, output.loss)
    assert model(input_ids=ids[2:], start_positions=starts[2:], end_positions=ends[2:]).loss == 0
    assert model(input_ids=ids, start_positions=starts).loss is None


@by_head
def test_one_reading_of_the_inputs(auto_class: str, monkeypatch: pytest.MonkeyPatch):
    """A forward pass checks its inputs, and looks for documents, once."""
    model, example = build(auto_class)
    calls = {name: Mock(wraps=vars(backbone)[name]) for name in ("check_inputs", "build_layout")}
    for name, call in calls.items():
        monkeypatch.setattr(backbone, name, call)
    model(**example.arguments(model.config))
    assert {name: call.call_count for name, call in calls.items()} == {"check_inputs": 1, "build_layout": 1}


@by_head
def test_every_head_continues_from_its_cache(auto_class: str):
    """The second half of a sequence, with the cache of the first, gives the outputs of the whole."""
    model, example = build(auto_class, bidirectional=False, pooling="mean")
    inputs = example.inputs(model.eval().config, 2, 14)
    first, second = ({name: value[..., half] for name, value in inputs.items()} for half in (slice(7), slice(7, None)))
    if "pixel_values" in inputs:  # an image goes on below
        first, second = ({name: value[:, :, row] for name, value in inputs.items()} for row in ([0], [1]))
    cache = model(**first, use_cache=True).cache
    answer, expected = logits_of(model(**second, cache=cache)), logits_of(model(**inputs))
    if "pixel_values" in inputs and expected.dim() == 4:
        expected = expected[:, :, [1]]
    elif expected.shape != answer.shape:
        expected = expected[:, 7:]
    torch.testing.assert_close(answer, expected, rtol=1e-5, atol=1e-5)


def test_pair_features():
    """A pair is classified by [a, b, a - b, a · b] of its pooled documents (official retrieval head)."""
    model = perturbed(DLRForSequencePairClassification(tiny_config(bidirectional=True))).eval()
    ids = torch.randint(1, 11, (2, 2, 7))
    a, b = (model.model(input_ids=ids[:, side]).last_hidden_state.mean(1) for side in (0, 1))
    expected = model.pair_classifier(torch.cat([a, b, a - b, a * b], dim=-1))
    torch.testing.assert_close(model(input_ids=ids).logits, expected, rtol=1e-5, atol=1e-5)


def test_pixels_in_raster_order():
    """An image is read row by row, and a segmentation's logits stand where their pixels do."""
    model, _ = build("AutoModelForSemanticSegmentation")
    pixels = torch.randn(1, 3, 5, 7)
    states = model.model(input_values=pixels.permute(0, 2, 3, 1).reshape(1, 35, 3)).last_hidden_state
    logits = model.classifier(states).reshape(1, 5, 7, 4).permute(0, 3, 1, 2)
    torch.testing.assert_close(model(pixel_values=pixels).logits, logits)


@pytest.mark.parametrize("auto_class", ["AutoModelForImageClassification", "AutoModelForSemanticSegmentation"])
def test_colour_in_grey(auto_class: str):
    """A model of one channel reads RGB as Pillow would convert it; grey as RGB is the same image."""
    model, _ = build(auto_class, input_size=1)
    pixels = np.random.default_rng(0).integers(0, 256, (5, 7, 3), dtype=np.uint8)
    grey = torch.from_numpy(np.array(Image.fromarray(pixels).convert("L")) / 255).float()[None, None]
    colour = torch.from_numpy(pixels / 255).float().permute(2, 0, 1)[None]
    expected = model.eval()(pixel_values=grey).logits
    torch.testing.assert_close(model(pixel_values=grey.expand(-1, 3, -1, -1)).logits, expected, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(raster(colour, 1), raster(grey, 1), rtol=0, atol=0.51 / 255)  # Pillow rounds


def test_padded_sound():
    """Masked silence after a recording does not change the output."""
    model, _ = build("AutoModelForAudioClassification")
    sound = torch.randn(1, 63)
    mask = (torch.arange(100) < 63).long().unsqueeze(0)
    padded = functional.pad(sound, (0, 37), value=9.0)
    expected = model.eval()(input_values=sound).logits
    torch.testing.assert_close(model(input_values=padded, attention_mask=mask).logits, expected, rtol=1e-5, atol=1e-5)


def test_tied_embeddings(tmp_path):
    """Tied weights are one tensor, before and after saving; untied ones are two."""
    for head, tied in ((DLRForCausalLM, True), (DLRForCausalLM, False), (DLRForMaskedLM, True)):
        config = tiny_config(tie_word_embeddings=tied, bidirectional=head is DLRForMaskedLM)
        model = perturbed(head(config))
        model.save_pretrained(tmp_path)
        for each in (model, head.from_pretrained(tmp_path)):
            assert (each.lm_head.weight is each.model.embed_tokens.weight) == tied
            assert torch.equal(each.lm_head.weight, model.lm_head.weight)
        model.resize_token_embeddings(17, mean_resizing=False)
        assert model.lm_head.weight.shape == model.model.embed_tokens.weight.shape == (17, 3)
        assert (model.lm_head.weight is model.model.embed_tokens.weight) == tied
        ids = torch.tensor([[1, 16]])
        assert model(input_ids=ids, labels=ids).loss.isfinite()
        with pytest.raises(ValueError, match=r"vocab_size-1 = 16 .* got 17"):
            model(input_ids=ids, labels=ids + 1)


@pytest.mark.parametrize("pooling", POOLINGS)
def test_cache_of_steps_that_were_not_pooled(pooling: str):
    """A pooling head refuses a cache that its backbone was given steps with, and leaves it be."""
    model = DLRForSequenceClassification(tiny_config(pooling=pooling))
    ids = torch.randint(1, 11, (2, 7))
    mixed = model(input_ids=ids, use_cache=True).cache
    model.model(input_ids=ids, cache=mixed)
    for seen, pooled, cache in (
        (7, 0, model.model(input_ids=ids, use_cache=True).cache),
        (14, 7, mixed),
    ):
        layers = list(cache.layers)
        with pytest.raises(ValueError, match=rf"has seen {seen} steps, of which {pooled} were .* start from Dynamic"):
            model(input_ids=ids, cache=cache)
        assert cache.layers == layers
        assert cache.get_seq_length() == seen


def test_a_head_says_what_it_predicts():
    """The base class of heads cannot be used itself."""
    recipe: Any = DLRHead
    with pytest.raises(TypeError, match="abstract"):
        recipe(tiny_config())


def test_custom_loss():
    """A custom loss function checks its own labels."""
    model = DLRForSequenceClassification(tiny_config())
    model.loss_function = lambda *, logits, labels, **_: (logits.mean() - labels["target"]).square()
    labels = {"target": torch.tensor(3.0)}
    output = model(input_ids=torch.randint(1, 11, (2, 7)), labels=labels)
    torch.testing.assert_close(output.loss, (output.logits.mean() - 3.0).square())


def test_masked_model_of_one_side_warns_once(caplog: pytest.LogCaptureFixture):
    """A masked language model on a causal configuration says what it cannot see, once."""
    logger = "modeling_dlr.modeling_dlr"
    backbone.logger.warning_once.cache_clear()
    backbone.logger.propagate = True
    with caplog.at_level("WARNING", logger=logger):
        for _ in range(2):
            DLRForMaskedLM(tiny_config())
    assert len([record for record in caplog.records if "bidirectional=True" in record.message]) == 1


def test_image_head_by_its_auto_class():
    """AutoModelForImageClassification.from_config builds the registered head."""
    config = tiny_config(input_size=3)
    assert type(AutoModelForImageClassification.from_config(config)) is AUTO_CLASSES["AutoModelForImageClassification"]
