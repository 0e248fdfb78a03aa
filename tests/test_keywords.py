"""The names of arguments: none is ignored without a word, and the older name of the cache is taken."""

import pytest
import torch
from tiny import EXAMPLES, perturbed, tiny_config
from transformers import DynamicCache

from modeling_dlr import DLRForCausalLM, DLRModel
from modeling_dlr.auto_dlr import AUTO_CLASSES
from modeling_dlr.checks_dlr import PASSED_ALONG

older_name = pytest.mark.filterwarnings("ignore:`past_key_values` is deprecated:FutureWarning")
every_head = pytest.mark.parametrize("auto_class", EXAMPLES)


def build(auto_class: str) -> tuple[torch.nn.Module, dict[str, torch.Tensor]]:
    """A small model and one batch for it."""
    model = perturbed(AUTO_CLASSES[auto_class](tiny_config(**EXAMPLES[auto_class].fields)).eval())
    return model, EXAMPLES[auto_class].inputs(model.config, 2, 7)


@every_head
@pytest.mark.parametrize(
    ("given", "meant"),
    [
        ("attention_maks", "attention_mask"),
        ("cu_seqlens", "cu_seq_lens_q"),
        ("chache", "cache"),
        ("num_item_in_batch", "num_items_in_batch"),
    ],
)
def test_a_misspelt_argument_is_refused(auto_class: str, given: str, meant: str):
    """With the nearest name that the head, or what it calls, has."""
    model, inputs = build(auto_class)
    with pytest.raises(TypeError, match=f"{type(model).__name__} has no argument '{given}': did you mean .*'{meant}"):
        model(**inputs, **{given: None})


@pytest.mark.parametrize(
    "auto_class", [name for name in EXAMPLES if name not in ("AutoModel", "AutoModelForQuestionAnswering")]
)
def test_misspelt_labels_are_refused(auto_class: str):
    model, inputs = build(auto_class)
    with pytest.raises(TypeError, match="no argument 'lables': did you mean 'labels'"):
        model(**inputs, lables=None)


def test_a_name_that_resembles_none_is_answered_with_all():
    model, inputs = build("AutoModel")
    with pytest.raises(TypeError, match="no argument 'xyzzy': it takes attention_mask, cache, cu_seq_lens_q"):
        model(**inputs, xyzzy=1)


def test_the_backbone_has_no_labels():
    model, inputs = build("AutoModel")
    with pytest.raises(TypeError, match="DLRModel has no argument 'labels'"):
        model(**inputs, labels=torch.zeros(2))


def test_an_answer_has_no_labels():
    model, inputs = build("AutoModelForQuestionAnswering")
    with pytest.raises(TypeError, match="DLRForQuestionAnswering has no argument 'labels'"):
        model(**inputs, labels=torch.zeros(2, 2))


@every_head
def test_what_libraries_pass_along_is_taken(auto_class: str):
    """Trainer, collators, tokenizers and PEFT pass these, and they change no answer."""
    model, inputs = build(auto_class)
    unread = {name: None for name in PASSED_ALONG - {"return_dict"} if not name.startswith("debug")}
    for plain, passed in zip(model(**inputs).to_tuple(), model(**inputs, **unread).to_tuple(), strict=True):
        assert torch.equal(plain, passed)


@older_name
def test_the_older_name_of_the_cache_is_taken():
    """As by transformers' own models until 5.40: in forwards, outputs and `generate`."""
    model = perturbed(DLRForCausalLM(tiny_config()).eval())
    ids = torch.randint(1, 11, (2, 9))
    older, newer = (DynamicCache(config=model.config) for _ in range(2))
    for part in ids.split(4, dim=1):
        old, new = model(part, past_key_values=older), model(part, cache=newer)
        assert torch.equal(old.logits, new.logits)
        assert old.past_key_values is old["past_key_values"] is old.cache is older
    assert older.get_seq_length() == newer.get_seq_length() == 9
    backbone = DLRModel(tiny_config()).eval()
    cache = backbone(ids, use_cache=True).cache
    assert backbone(ids[:, :1], past_key_values=cache).cache is cache


@older_name
def test_generation_goes_on_from_a_cache_of_either_name():
    model = perturbed(DLRForCausalLM(tiny_config()).eval())
    ids, options = (
        torch.randint(1, 11, (1, 5)),
        {"do_sample": False, "return_dict_in_generate": True, "pad_token_id": 0},
    )
    whole = model.generate(ids, max_new_tokens=8, **options).sequences
    for name in ("cache", "past_key_values"):
        first = model.generate(ids, max_new_tokens=3, **options)
        rest = model.generate(first.sequences, max_new_tokens=5, **{name: first.cache}, **options)
        assert torch.equal(rest.sequences, whole)
