"""Log-likelihoods and embeddings: of every sequence as alone, whatever shares its batch, on either strand."""

from pathlib import Path
from typing import Any

import pytest
import torch
from golden_data import GOLDEN
from safetensors.torch import load_file
from tiny import perturbed, tiny_config
from tiny_striped import tiny_striped
from tolerances import assert_close
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from modeling_dlr import DLRForCausalLM, DLRModel, StripedHyenaModel, StripedHyenaModelForCausalLM
from modeling_dlr.scoring import embeddings, log_likelihoods, reverse_complement, token_log_likelihoods
from modeling_dlr.tokenization import byte_tokenizer, evo_tokenizer

PUBLISHED = GOLDEN / "striped_hyena" / "evo-8k"
SEQUENCES = ["ACGTTGCA", "G", "ttacgNRAC" * 7, "CCGTA"]

MODELS: dict[str, Any] = {
    "StripedHyena": lambda: (tiny_striped(StripedHyenaModelForCausalLM, vocab_size=512), evo_tokenizer()),
    "DLR": lambda: (perturbed(DLRForCausalLM(tiny_config(vocab_size=261))).double().eval(), byte_tokenizer()),
}
by_model = pytest.mark.parametrize("kind", MODELS)


def test_tokens_are_bytes(tmp_path: Path):
    """Id = byte for every text, also from a saved tokenizer; nothing is added, and batches are padded by 1."""
    evo_tokenizer().save_pretrained(tmp_path)
    for tokenizer in (evo_tokenizer(), AutoTokenizer.from_pretrained(tmp_path)):
        assert isinstance(tokenizer, PreTrainedTokenizerFast)
        for text in ("ACGTNacgtn", "".join(map(chr, range(128))), "|d__Bacteria;p__É世|ATG", "`", " A  C "):
            assert tokenizer(text).input_ids == list(text.encode())
            assert tokenizer.decode(tokenizer(text).input_ids, skip_special_tokens=True) == text.replace(
                "\0", ""
            ).replace("\1", "")
        assert (len(tokenizer), tokenizer.eos_token_id, tokenizer.pad_token_id) == (512, 0, 1)
        batch = tokenizer(["ACG", "T"], padding=True, return_offsets_mapping=True)
        assert batch.input_ids == [[65, 67, 71], [84, 1, 1]]
        assert batch.attention_mask == [[1, 1, 1], [1, 0, 0]]
        assert tokenizer("aéC", return_offsets_mapping=True).offset_mapping == [(0, 1), (1, 2), (1, 2), (2, 3)]
        assert tokenizer.convert_tokens_to_ids(["<eod>", "<pad>"]) == [0, 1]


def test_scores_are_the_official_ones():
    """Log-probabilities of the golden tokens: the first of them stands for the one that begins a sequence."""
    data = load_file(PUBLISHED / "expected.safetensors")
    model = StripedHyenaModelForCausalLM.from_pretrained(PUBLISHED, dtype=torch.float64).eval()
    for ids, expected in zip(data["input_ids"], data["log_probabilities_float64"], strict=True):
        text, codes = (
            "".join(map(chr, ids[1:])),
            lambda texts, **_: {"input_ids": [list(map(ord, text)) for text in texts]},
        )
        (scores,) = token_log_likelihoods(model, codes, [text], begin_token_id=int(ids[0]))
        assert scores.dtype == torch.float32
        assert_close(scores, expected, torch.float32)


@by_model
@pytest.mark.parametrize("batch_tokens", [1, 20, 10_000])
def test_batches_change_no_score(kind: str, batch_tokens: int):
    """Per token, per sequence and on both strands: against one sequence at a time by the definition."""
    model, tokenizer = MODELS[kind]()
    begin = tokenizer.bos_token_id
    expected = []
    for sequence in SEQUENCES:
        ids = torch.tensor([[begin, *tokenizer(sequence, add_special_tokens=False).input_ids]])
        with torch.no_grad():
            logits = model(ids).logits.log_softmax(-1)
        expected.append(logits[0, :-1].gather(1, ids[0, 1:, None])[:, 0])
    scores = token_log_likelihoods(model, tokenizer, SEQUENCES, batch_tokens=batch_tokens)
    for score, values in zip(scores, expected, strict=True):
        assert_close(score, values, torch.float32)
    options: dict[str, Any] = {"batch_tokens": batch_tokens}
    sums = log_likelihoods(model, tokenizer, SEQUENCES, reduction="sum", **options)
    assert_close(sums, torch.stack([values.sum() for values in expected]), torch.float32)
    means = log_likelihoods(model, tokenizer, SEQUENCES, **options)
    assert_close(means, torch.stack([values.mean() for values in expected]), torch.float32)
    other = log_likelihoods(model, tokenizer, [reverse_complement(s) for s in SEQUENCES], **options)
    assert_close(log_likelihoods(model, tokenizer, SEQUENCES, strands="reverse", **options), other, torch.float32)
    both = log_likelihoods(model, tokenizer, SEQUENCES, strands="both", **options)
    assert_close(both, (means.double() + other.double()) / 2, torch.float32)


@pytest.mark.parametrize("model_class", [StripedHyenaModelForCausalLM, StripedHyenaModel, DLRForCausalLM, DLRModel])
def test_embeddings(model_class: type):
    """The mean over a sequence's own tokens after any layer, counted from either end."""
    if issubclass(model_class, (DLRForCausalLM, DLRModel)):
        model, tokenizer = perturbed(model_class(tiny_config(vocab_size=261))).double().eval(), byte_tokenizer()
    else:
        model, tokenizer = tiny_striped(model_class, vocab_size=512), evo_tokenizer()
    count = model.config.num_hidden_layers
    for layer in range(-count - 1, count + 1):
        found = embeddings(model, tokenizer, SEQUENCES, layer=layer, batch_tokens=30)
        for row, sequence in zip(found, SEQUENCES, strict=True):
            ids = tokenizer(sequence, add_special_tokens=False, return_tensors="pt").input_ids
            with torch.no_grad():
                states = model.base_model(ids, output_hidden_states=True).hidden_states[layer]
            assert_close(row, states[0].mean(0), torch.float32)
    with pytest.raises(ValueError, match=f"layer must lie in 0 … {count}"):
        embeddings(model, tokenizer, SEQUENCES, layer=count + 1)


def test_reverse_complement():
    """Twice is the same; sets of bases pair with sets; other letters are refused with their position."""
    text = "ACGTNRYSWKMBDHVacgtn-"
    assert reverse_complement(reverse_complement(text)) == text
    assert reverse_complement("RAAy") == "rTTY"
    with pytest.raises(ValueError, match="got 'E' at position 3"):
        reverse_complement("ACE")


def test_refused():
    """Rule, value and cure."""
    model, tokenizer = MODELS["StripedHyena"]()
    with pytest.raises(TypeError, match="got the string 'ACGT'"):
        log_likelihoods(model, tokenizer, "ACGT")
    with pytest.raises(ValueError, match="an empty one at index 1"):
        log_likelihoods(model, tokenizer, ["A", ""])
    with pytest.raises(ValueError, match="none at all"):
        embeddings(model, tokenizer, [])
    with pytest.raises(ValueError, match="got 'back'"):
        log_likelihoods(model, tokenizer, ["A"], strands="back")
    tokenizer.bos_token = tokenizer.eos_token = None
    with pytest.raises(ValueError, match="pass begin_token_id"):
        log_likelihoods(model, tokenizer, ["A"])
