"""Generation: with a state of constant size, and the same tokens as computing every step anew."""

from typing import Any

import pytest
import torch
from families import FAMILIES
from tiny import perturbed, tiny_config
from torch import Tensor
from transformers import AutoModelForCausalLM, CompileConfig, DynamicCache, GenerationConfig

from modeling_dlr import DLRForCausalLM

RECURRENT = {
    name: family.options for name, family in FAMILIES.items() if family.kernel(1, 3, 5).no_recurrence_because is None
} | {"DSS with the logarithm of a frequency of 0": {"kernel_type": "dss", "version": "exp_re_im", "pole_init": "lin"}}
LAYERS: dict[str, dict[str, Any]] = {
    "DLR": {},
    "gated, post-norm": {"num_kernel_channels": 2, "channel_gate_act": "silu", "norm_position": "post"},
    "tied": {"tie_word_embeddings": True},
    "full attention": {"layer_types": ["full_attention"] * 2},
    "local attention": {"layer_types": ["local_attention"] * 2, "attention_window": 3},
    "hybrid": {"layer_types": ["dlr", "local_attention"], "attention_window": 5},
}
ATTENTION = {"hidden_size": 8, "num_attention_heads": 2}
by_layers = pytest.mark.parametrize("layers", LAYERS.values(), ids=LAYERS.keys())

SEARCHES: dict[str, dict[str, Any]] = {
    "greedy": {"do_sample": False},
    "sampling": {"do_sample": True, "top_k": 5},
    "beams": {"do_sample": False, "num_beams": 3, "num_return_sequences": 2},
}


def language_model(**fields: Any) -> DLRForCausalLM:
    """A float64 model whose next tokens are far from ties."""
    return perturbed(DLRForCausalLM(tiny_config(**ATTENTION, eos_token_id=None, **fields)), 1.0).eval().double()


def prompts(length: int = 9, batch: int = 2) -> dict[str, Tensor]:
    ids = torch.randint(1, 11, (batch, length))
    return {"input_ids": ids, "attention_mask": torch.ones_like(ids)}


def generate(model: DLRForCausalLM, inputs: dict[str, Tensor], **options: Any) -> Any:
    torch.manual_seed(0)
    return model.generate(**inputs, max_new_tokens=12, min_new_tokens=12, **options)


@pytest.mark.parametrize("search", SEARCHES.values(), ids=SEARCHES.keys())
@by_layers
def test_cache_changes_no_token(layers: dict[str, Any], search: dict[str, Any]):
    """Greedy search, sampling and beams give the same tokens with and without a cache."""
    model, inputs = language_model(**layers), prompts()
    expected = generate(model, inputs, use_cache=False, **search)
    assert torch.equal(generate(model, inputs, **search), expected)


@pytest.mark.parametrize("options", RECURRENT.values(), ids=RECURRENT.keys())
def test_every_recurrence_generates(options: dict[str, Any]):
    """The same for every kernel that has a recurrence."""
    model, inputs = language_model(kernel_parameters=options), prompts()
    assert torch.equal(
        generate(model, inputs, do_sample=False), generate(model, inputs, do_sample=False, use_cache=False)
    )


@pytest.mark.parametrize(
    "options",
    [{"kernel_type": "sgconv"}, {"read_out": "prod"}, {"max_length": 5}, {"kernel_type": "dss", "version": "softmax"}],
    ids=str,
)
def test_convolution_only(options: dict[str, Any]):
    """A kernel without a recurrence generates by computing every step anew; asking for a cache is refused."""
    model, inputs = language_model(kernel_parameters=options), prompts()
    tokens = inputs["input_ids"]
    for _ in range(12):
        tokens = torch.cat([tokens, model(tokens).logits[:, -1:].argmax(-1)], dim=1)
    assert torch.equal(generate(model, inputs, do_sample=False), tokens)
    with pytest.raises(ValueError, match=r"cache: .*use_cache=False"):
        generate(model, inputs, do_sample=False, use_cache=True)


@by_layers
@pytest.mark.parametrize("beams", [1, 3])
@pytest.mark.parametrize("options", [{"cache_implementation": "static"}, {"prefill_chunk_size": 4}], ids=str)
def test_kinds_of_caches(layers: dict[str, Any], options: dict[str, Any], beams: int):
    """A static cache and a prompt read in chunks give the same tokens, to beams as well."""
    model, inputs = language_model(**layers), prompts()
    expected = generate(model, inputs, do_sample=False, num_beams=beams)
    assert torch.equal(generate(model, inputs, do_sample=False, num_beams=beams, **options), expected)


@pytest.mark.parametrize(
    "options",
    [
        {"cache_implementation": "dynamic"},
        {"cache_implementation": "static", "compile_config": CompileConfig(backend="eager")},
        {"cache_implementation": "hybrid"},
    ],
    ids=str,
)
@pytest.mark.parametrize("name", ["DLR", "hybrid"])
def test_other_names_of_caches(name: str, options: dict[str, Any]):
    """Every name of a cache that needs no other hardware gives the same tokens; asking to compile changes none."""
    model, inputs = language_model(**LAYERS[name]), prompts()
    expected = generate(model, inputs, do_sample=False, use_cache=False)
    assert torch.equal(generate(model, inputs, do_sample=False, **options), expected)


@by_layers
def test_left_padded_batch(layers: dict[str, Any]):
    """Every row of a batch of prompts of several lengths continues as it does alone, with every search."""
    model = language_model(**layers)
    lengths = [9, 1, 4]
    ids, mask = torch.full((3, 9), 7), torch.zeros(3, 9, dtype=torch.long)
    for row, length in enumerate(lengths):
        ids[row, 9 - length :] = torch.randint(1, 11, (length,))
        mask[row, 9 - length :] = 1
    for search in ({}, {"num_beams": 3}):
        together = generate(model, {"input_ids": ids, "attention_mask": mask}, do_sample=False, **search)
        for row, length in enumerate(lengths):
            prompt = ids[row : row + 1, 9 - length :]
            alone = generate(
                model, {"input_ids": prompt, "attention_mask": torch.ones_like(prompt)}, do_sample=False, **search
            )
            assert torch.equal(together[row, 9 - length :], alone[0])


def test_embeddings_as_a_prompt_need_a_cache():
    """transformers insists on one there, so that use_cache=False would be no cure."""
    model = DLRForCausalLM(tiny_config(kernel_parameters={"kernel_type": "sgconv"})).eval()
    with pytest.raises(ValueError, match=r"inputs_embeds .*input_ids"):
        model.generate(inputs_embeds=torch.randn(1, 5, 3), max_new_tokens=2)


@by_layers
def test_continuing_from_a_returned_cache(layers: dict[str, Any]):
    """A conversation: new tokens are the same with the returned cache and without one."""
    model, inputs = language_model(**layers), prompts()
    first = generate(model, inputs, do_sample=False, return_dict_in_generate=True)
    longer = torch.cat([first.sequences, torch.randint(1, 11, (2, 5))], dim=1)
    turn = {"input_ids": longer, "attention_mask": torch.ones_like(longer)}
    expected = generate(model, turn, do_sample=False)
    again = generate(model, turn, do_sample=False, cache=first.cache)
    assert torch.equal(again, expected)


@by_layers
def test_from_embeddings(layers: dict[str, Any]):
    """A prompt of embeddings goes on as the prompt of tokens does."""
    model, inputs = language_model(**layers), prompts()
    embeddings = model.get_input_embeddings()(inputs["input_ids"])
    by_embeddings = generate(
        model, {"inputs_embeds": embeddings, "attention_mask": inputs["attention_mask"]}, do_sample=False
    )
    assert torch.equal(by_embeddings, generate(model, inputs, do_sample=False)[:, 9:])


def test_memory_does_not_grow():
    """The size of the state does not depend on the number of tokens."""
    model = language_model()
    sizes = []
    for tokens in (1, 50, 200):
        output = model.generate(**prompts(), max_new_tokens=tokens, min_new_tokens=tokens, return_dict_in_generate=True)
        cache = output.cache
        assert cache.get_seq_length() == 9 + tokens - 1
        sizes.append(sum(layer.keys.numel() + layer.values.numel() for layer in cache.layers))
    # two layers, two sequences, eight channels of five complex poles
    assert sizes == [2 * 2 * 8 * 5 * 2] * 3


def test_long_prompt_in_chunks():
    """The next token of a long prompt read chunk by chunk is that of the whole."""
    model = language_model().float()
    ids = torch.randint(1, 11, (1, 50_000))
    with torch.no_grad():
        cache = DynamicCache(config=model.config)
        answers = [model(chunk, cache=cache, logits_to_keep=1).logits for chunk in ids.split(4096, dim=1)]
        expected = model(ids, logits_to_keep=1).logits
    torch.testing.assert_close(answers[-1], expected, rtol=1e-4, atol=1e-4)


# Where it may be said that padding is token 1, and that token 1 ends a text.
SAID: dict[str, Any] = {
    "to the model": lambda model, both: model.generation_config.update(**both) and {},
    "in a configuration": lambda _, both: {"generation_config": GenerationConfig(**both)},
    "in the call": lambda _, both: both,
    "several ends": lambda _, both: both | {"eos_token_id": [7, 1]},
    "over what the model says": lambda model, both: model.generation_config.update(pad_token_id=5) or both,
}


@pytest.mark.parametrize("said", SAID.values(), ids=SAID.keys())
def test_ambiguous_padding(said: Any):
    """If the padding token also ends texts, a batch that begins with it needs its mask."""
    model = language_model()
    options = {"max_new_tokens": 2} | said(model, {"pad_token_id": 1, "eos_token_id": 1})
    ids = torch.tensor([[1, 1, 5], [4, 5, 6]])
    with pytest.raises(ValueError, match=r"Row 0 .*pad_token_id=1.*attention_mask"):
        model.generate(ids, **options)
    mask = torch.tensor([[0, 0, 1], [1, 1, 1]])
    assert model.generate(ids, attention_mask=mask, **options).shape[1] <= 5
    assert model.generate(ids[:1], **options).shape[1] <= 5
    assert model.generate(ids[1:], **options | {"pad_token_id": 4}).shape[1] <= 5


def test_texts_that_begin_with_the_token_of_padding():
    """Where every prompt begins with it, as with models that begin texts by their end token, it is no padding."""
    model, ids = language_model(), torch.tensor([[1, 2, 5], [1, 5, 6]])
    options = {"max_new_tokens": 4, "do_sample": False, "pad_token_id": 1, "eos_token_id": 1}
    expected = model.generate(ids, attention_mask=torch.ones_like(ids), **options)
    assert torch.equal(model.generate(ids, **options), expected)


def test_what_tokenizers_return_besides():
    """generate(**tokenizer(...)) takes the types of tokens that some tokenizers return, and does not read them."""
    model, inputs = language_model(), prompts()
    types = {"token_type_ids": torch.ones_like(inputs["input_ids"])}
    assert torch.equal(generate(model, inputs | types, do_sample=False), generate(model, inputs, do_sample=False))


def test_assisted_decoding_is_refused():
    """transformers itself refuses searches that remove tokens from a state."""
    model = language_model()
    with pytest.raises(ValueError, match="stateful"):
        generate(model, prompts(), prompt_lookup_num_tokens=2)


def test_saved_model_generates(tmp_path):
    """A saved language model generates the same, and carries a state although config.use_cache is False."""
    model = language_model().float()
    model.save_pretrained(tmp_path)
    loaded = AutoModelForCausalLM.from_pretrained(tmp_path)
    assert loaded.generation_config.use_cache
    assert not loaded.config.use_cache
    inputs = prompts()
    assert torch.equal(generate(loaded, inputs, do_sample=False), generate(model, inputs, do_sample=False))
