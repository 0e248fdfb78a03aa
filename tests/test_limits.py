"""What the README says is not there is refused in a sentence, or by torch and its libraries, and never answered."""

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from peft import IA3Config, PeftConfig, PrefixTuningConfig, PromptTuningConfig, get_peft_model
from tiny import KERNELS, perturbed, tiny_config
from torch import Tensor
from torch.autograd import forward_ad, functional

from modeling_dlr import DLRForCausalLM, DLRForSequenceClassification
from modeling_dlr.convolution_dlr import convolve
from modeling_dlr.vandermonde_dlr import vandermonde_adjoint, vandermonde_product

SHAPES: dict[str, tuple[Callable[..., Tensor], list[tuple[int, ...]]]] = {
    "convolution": (lambda u, K, D: convolve(u, K, None, D), [(2, 7, 3), (1, 3, 7), (1, 3)]),
    "both directions": (convolve, [(2, 7, 3), (1, 3, 7), (1, 3, 7), (1, 3)]),
    "kernel": (lambda *inputs: vandermonde_product(*inputs, length=7), [(1, 5), (1, 5), (1, 3, 5), (1, 3, 5)]),
    "state": (lambda *inputs: torch.cat(vandermonde_adjoint(*inputs)), [(1, 5), (1, 5), (1, 3, 7)]),
}


@pytest.mark.parametrize(("function", "shapes"), SHAPES.values(), ids=SHAPES.keys())
def test_no_second_derivative_of_a_function(function: Callable[..., Tensor], shapes: list[tuple[int, ...]]):
    """By whichever input one differentiates first and then: none comes out as 0, or as a part of it."""
    inputs = [torch.randn(shape, dtype=torch.float64, requires_grad=True) for shape in shapes]
    for first in inputs:
        for second in inputs:
            (gradient,) = torch.autograd.grad(function(*inputs).square().sum(), first, create_graph=True)
            with pytest.raises(RuntimeError, match=r"second derivatives.*create_graph=True"):
                torch.autograd.grad(gradient.sum(), second)


@pytest.fixture(params=[{}, *KERNELS.values()], ids=["DLR", *KERNELS])
def model(request: pytest.FixtureRequest) -> DLRForSequenceClassification:
    config = tiny_config(kernel_parameters=request.param)
    return perturbed(DLRForSequenceClassification(config)).eval().double()


def test_no_second_derivative_of_a_model(model: DLRForSequenceClassification):
    """A product with its matrix of second derivatives (HVP) is refused."""
    x = torch.randn(2, 7, 3, dtype=torch.float64)
    with pytest.raises(RuntimeError, match="no second derivatives"):
        functional.hvp(lambda x: model(inputs_embeds=x).logits.square().sum(), x, x)


@pytest.mark.filterwarnings("ignore:`torch.jit")
def test_no_derivatives_forwards(model: DLRForSequenceClassification):
    """Forward-mode derivatives and the transformations of torch.func are refused by torch."""
    x = torch.randn(2, 7, 3, dtype=torch.float64)
    with forward_ad.dual_level(), pytest.raises(NotImplementedError, match="jvp"):
        model(inputs_embeds=forward_ad.make_dual(x, x))
    with pytest.raises(RuntimeError, match="functorch"):
        torch.func.grad(lambda x: model(inputs_embeds=x).logits.sum())(x)


@pytest.mark.filterwarnings("ignore:`torch.jit", "ignore:`is_grad", "ignore::torch.jit.TracerWarning")
@torch.no_grad()
def test_no_traced_sequence(model: DLRForSequenceClassification):
    """A traced program would answer sequences of other lengths as if they had that of its example."""
    with pytest.raises(RuntimeError, match="would fix the length of sequences"):
        torch.jit.trace(model, torch.ones(2, 7, dtype=torch.long), check_trace=False)


def language_model(**fields: Any) -> DLRForCausalLM:
    return perturbed(DLRForCausalLM(tiny_config(hidden_size=6, num_attention_heads=3, **fields))).eval()


@pytest.mark.parametrize("kind", ["dlr", "full_attention"])
def test_no_continuous_batching(kind: str):
    """Attention alone answered empty texts there, after an error in another thread."""
    model = language_model(layer_types=[kind] * 2)
    calls = {
        "generate_batch": lambda: model.generate_batch(inputs=[[1, 2, 3]]),
        "generate": lambda: model.generate(torch.ones(1, 3, dtype=torch.long), cache_implementation="paged"),
    }
    for name, call in calls.items():
        with pytest.raises(NotImplementedError, match=r"continuous batching.*call generate with a padded"):
            pytest.fail(f"{name} answered {call()}")


def test_no_searches_that_take_tokens_back():
    """Assisted decoding, by a model or by early layers, is refused by transformers itself."""
    model, ids = language_model(), torch.ones(1, 3, dtype=torch.long)
    for options in ({"assistant_model": copy.deepcopy(model)}, {"assistant_early_exit": 1}):
        with pytest.raises(ValueError, match="not supported with stateful models"):
            model.generate(ids, max_new_tokens=2, **options)


@pytest.mark.parametrize("kinds", [["dlr", "dlr"], ["dlr", "full_attention"], ["local_attention"] * 2], ids=str)
def test_no_quantized_caches(kinds: list[str]):
    """But for full attention alone, transformers itself refuses to round what is kept."""
    model = language_model(layer_types=kinds)
    with pytest.raises(ValueError, match="only supported for models with only full attention layers"):
        model.generate(torch.ones(1, 3, dtype=torch.long), cache_implementation="quantized", max_new_tokens=2)


@pytest.mark.filterwarnings(
    "ignore:`past_key_values` is deprecated", "ignore:`is_gradient_checkpointing` is deprecated"
)
def test_no_prefixes_before_a_state():
    """Keys and values learned as a prefix (PEFT) are no state, and refused as the cache of another model."""
    config = PrefixTuningConfig(
        task_type="CAUSAL_LM", num_virtual_tokens=3, num_layers=2, num_attention_heads=3, token_dim=6
    )
    model = get_peft_model(language_model(), config)
    with pytest.raises(ValueError, match=r"This cache has layers .* but the model has"):
        model(input_ids=torch.ones(2, 7, dtype=torch.long))


@pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated")
@pytest.mark.parametrize(
    "config",
    [
        PromptTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=3),
        IA3Config(task_type="CAUSAL_LM", target_modules=["out_proj"], feedforward_modules=[]),
    ],
    ids=lambda config: config.peft_type.value,
)
def test_other_adapters(config: PeftConfig):
    """Learned tokens before the text (prompt tuning) and scales (IA³) are trained."""
    model, ids = get_peft_model(language_model(), config), torch.randint(1, 11, (2, 7))
    model(input_ids=ids, attention_mask=torch.ones_like(ids), labels=ids).loss.backward()
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    assert trained
    assert all(parameter.grad.abs().max() > 0 for parameter in trained)
