"""Decoding in blocks is the recurrence, from any state and back to it, and generation uses it."""

import copy
import re
from collections.abc import Callable
from itertools import pairwise
from typing import Any

import pytest
import torch
from accelerate import cpu_offload
from peft import LoraConfig, PeftModel, get_peft_model
from tiny import perturbed, tiny_config
from torch import Tensor, nn
from torch.nn.utils import parametrize, prune
from transformers import DynamicCache

from modeling_dlr import DLRForCausalLM, DLRModel, cache_dlr, vandermonde_dlr
from modeling_dlr.cache_dlr import Block, begin_block, lookahead_tables, next_output, state_after
from modeling_dlr.ops_dlr import Modes, State, convolution, step


def random_modes(C: int, H: int, N: int, *, shared: bool, dtype: torch.dtype = torch.float64) -> Modes:
    poles = (N,) if shared else (H, N)
    decay, angle = -0.1 * torch.rand(poles, dtype=torch.float64), 6 * torch.rand(poles, dtype=torch.float64)
    return Modes(decay, angle, torch.randn(C, H, N, dtype=dtype), torch.randn(C, H, N, dtype=dtype))


SIZES = {"one token": (1, 1, 3, 1, 1, 4), "odd": (2, 2, 3, 7, 63, 5), "longer than the tokens": (1, 1, 2, 4, 7, 100)}


@pytest.mark.parametrize(("B", "C", "H", "N", "L", "block_length"), SIZES.values(), ids=SIZES)
@pytest.mark.parametrize("shared", [True, False], ids=["shared poles", "poles per channel"])
def test_blocks_are_steps(B: int, C: int, H: int, N: int, L: int, block_length: int, shared: bool):
    """Every output and the state after every token equal those of plain steps, from a non-zero state."""
    modes, skip = random_modes(C, H, N, shared=shared), torch.randn(C, H, dtype=torch.float64)
    start = plain = State(torch.randn(B, H, N, dtype=torch.float64), torch.randn(B, H, N, dtype=torch.float64))
    tables = lookahead_tables(modes, skip, block_length)
    block = begin_block(tables, start)
    for u in torch.randn(L, B, H, dtype=torch.float64):
        if not block.is_open:
            start = state_after(block, start)
            block = begin_block(tables, start)
        expected, plain = step(modes, skip, u, plain)
        torch.testing.assert_close(next_output(block, u), expected, rtol=1e-12, atol=1e-12)
        for mine, theirs in zip(state_after(block, start), plain, strict=True):
            torch.testing.assert_close(mine, theirs, rtol=1e-12, atol=1e-12)


def test_blocks_are_more_exact_than_the_tolerance_of_steps():
    """After 4,096 float32 tokens the error stays below 1e-5 of the float64 convolution."""
    modes, skip = random_modes(1, 3, 64, shared=True, dtype=torch.float32), torch.randn(1, 3)
    u = torch.randn(1, 4096, 3)
    exact = Modes(*(part.double() for part in modes[:4]))
    expected, _ = convolution(exact, skip.double(), u.double())
    tables = lookahead_tables(modes, skip, 64)
    state = State(torch.zeros(1, 3, 64), torch.zeros(1, 3, 64))
    outputs, block = [], begin_block(tables, state)
    for token in u.unbind(1):
        if not block.is_open:
            state = state_after(block, state)
            block = begin_block(tables, state)
        outputs.append(next_output(block, token))
    error = (torch.stack(outputs, 1).double() - expected).abs().max() / expected.abs().max()
    assert error < 1e-5


def test_block_length_is_positive():
    """A block of no tokens is refused."""
    with pytest.raises(ValueError, match="got block_length=0"):
        lookahead_tables(random_modes(1, 2, 3, shared=True), torch.zeros(1, 2), 0)


@pytest.mark.parametrize(("shape", "length"), [((4096,), 128), ((256, 64), 64), ((1024, 4096), 8)], ids=str)
def test_tables_stay_small(shape: tuple[int, ...], length: int, monkeypatch: pytest.MonkeyPatch):
    """Poles of every channel's own make blocks shorter."""
    asked = []

    def stop(modes: Modes, steps: int) -> Tensor:
        asked.append(steps)
        raise InterruptedError

    monkeypatch.setattr(cache_dlr, "evaluate_kernel", stop)
    nothing = torch.empty(0)
    with pytest.raises(InterruptedError):
        lookahead_tables(
            Modes(torch.empty(shape, device="meta"), torch.empty(shape, device="meta"), nothing, nothing), nothing
        )
    assert asked == [length]


# Decoding of a whole model, whose blocks have 8 tokens here.


@pytest.fixture
def blocks(monkeypatch: pytest.MonkeyPatch) -> list[Block]:
    """Count the blocks that begin; each has at most 8 tokens."""
    begun: list[Block] = []

    def begin(tables: Any, state: State) -> Block:
        begun.append(begin_block(tables, state))
        return begun[-1]

    monkeypatch.setattr(cache_dlr, "_LONGEST_BLOCK", 8)
    monkeypatch.setattr("modeling_dlr.cache_dlr.begin_block", begin)
    return begun


@pytest.fixture
def model() -> DLRModel:
    """One layer in float64."""
    return perturbed(DLRModel(tiny_config(num_hidden_layers=1)).eval()).double()


def draw(length: int) -> Tensor:
    return torch.randint(1, 11, (2, length))


def outputs(model: DLRModel, cache: DynamicCache, tokens: Tensor) -> Tensor:
    """Hidden states of tokens that come one by one."""
    parts = [model(token, cache=cache).last_hidden_state for token in tokens.split(1, dim=1)]
    return torch.cat(parts, dim=1)


@torch.no_grad()
def test_a_model_touches_its_state_once_a_block(model: DLRModel, blocks: list[Block]):
    """Tokens one by one, then a chunk in the middle of a block, then tokens again: as all at once."""
    ids, cache = draw(33), DynamicCache(config=model.config)
    parts = [model(ids[:, :5], cache=cache).last_hidden_state, outputs(model, cache, ids[:, 5:25])]
    assert len(blocks) == 3
    assert cache.get_seq_length() == 25
    parts += [model(ids[:, 25:29], cache=cache).last_hidden_state, outputs(model, cache, ids[:, 29:])]
    torch.testing.assert_close(torch.cat(parts, dim=1), model(ids).last_hidden_state)


def edit_angle(model: DLRModel) -> None:
    model.layers[0].mixer.kernel.angle.add_(0.3)


def move_skip(model: DLRModel) -> None:
    """As an offload does, which frees the memory that the parameter had."""
    D = model.layers[0].mixer.D
    value = D.detach() + 1
    D.data = torch.empty(0, dtype=D.dtype)
    D.data = value.clone()


def optimizer_step(model: DLRModel) -> None:
    with torch.enable_grad():
        model(draw(3)).last_hidden_state.sum().backward()
    torch.optim.SGD(model.parameters(), lr=0.01).step()
    model.zero_grad()


def fused_optimizer_step(model: DLRModel) -> None:
    """It does not count as a change of what it changes."""
    with torch.enable_grad():
        model(draw(3)).last_hidden_state.sum().backward()
    torch.optim.AdamW(model.parameters(), lr=0.01, fused=True).step()
    model.zero_grad()


def edit_in_place(model: DLRModel) -> None:
    model.layers[0].mixer.kernel.weights[0, 0, 0] = 5.0


def edit_skip(model: DLRModel) -> None:
    model.layers[0].mixer.D += 1


def load(model: DLRModel) -> None:
    model.load_state_dict(perturbed(DLRModel(model.config)).state_dict())


def replace(model: DLRModel) -> None:
    kernel = model.layers[0].mixer.kernel
    kernel.decay_root = nn.Parameter(kernel.decay_root + 0.1)


def edit_through_data(model: DLRModel) -> None:
    model.layers[0].mixer.kernel.angle.data.add_(0.1)


def edit_one_number_through_data(model: DLRModel) -> None:
    """Change a number of the weights that is not in the sample of a snapshot."""
    weights = model.layers[0].mixer.kernel.weights
    assert weights.numel() > vandermonde_dlr._SAMPLE_SIZE
    weights.data.view(-1)[1] += 5


CHANGES = [
    edit_angle,
    optimizer_step,
    fused_optimizer_step,
    edit_in_place,
    edit_skip,
    edit_through_data,
    load,
    move_skip,
    replace,
]


@pytest.mark.parametrize("change", CHANGES)
@torch.no_grad()
def test_a_change_of_weights_ends_a_block(model: DLRModel, blocks: list[Block], change: Callable[[DLRModel], None]):
    """What comes after it is computed with the new weights, from the state that the old ones left."""
    ids, cache = draw(16), DynamicCache(config=model.config)
    model(ids[:, :7], cache=cache)
    outputs(model, cache, ids[:, 7:11])
    settled = copy.deepcopy(cache)
    assert settled.layers[0].block is None
    change(model)
    expected = model(ids[:, 11:], cache=settled).last_hidden_state
    torch.testing.assert_close(outputs(model, cache, ids[:, 11:]), expected)
    assert len(blocks) == 2


@pytest.mark.parametrize("change", [*CHANGES, edit_one_number_through_data])
@torch.no_grad()
def test_tables_are_never_stale(blocks: list[Block], change: Callable[[DLRModel], None]):
    """Whatever changed the weights between two sequences, and computed once if nothing did."""
    model, ids = perturbed(DLRModel(tiny_config(num_hidden_layers=1, state_size=99)).eval()).double(), draw(6)
    outputs(model, DynamicCache(config=model.config), ids)
    outputs(model, DynamicCache(config=model.config), ids)
    assert blocks[0].tables is blocks[1].tables
    change(model)
    assert_decodes(model, ids)
    assert blocks[2].tables is not blocks[0].tables


def assert_decodes(model: DLRModel, ids: Tensor) -> None:
    one_by_one = outputs(model, DynamicCache(config=model.config), ids)
    torch.testing.assert_close(one_by_one, model(ids).last_hidden_state)


def test_a_gradient_needs_steps(model: DLRModel, blocks: list[Block]):
    """With gradients tokens are stepped through, also after a block without them; then blocks begin again."""
    ids, cache = draw(9), DynamicCache(config=model.config)
    with torch.no_grad():
        outputs(model, cache, ids[:, :3])
    hidden = outputs(model, cache, ids[:, 3:6])
    hidden.sum().backward()
    assert len(blocks) == 1
    assert model.layers[0].mixer.kernel.angle.grad is not None
    with torch.no_grad():
        last = outputs(model, cache, ids[:, 6:])
        torch.testing.assert_close(torch.cat([hidden, last], 1), model(ids).last_hidden_state[:, 3:])
    assert len(blocks) == 2


def test_in_and_out_of_inference_mode(model: DLRModel, blocks: list[Block]):
    """A sequence may be begun in one mode and gone on with in another."""
    ids, cache = draw(9), DynamicCache(config=model.config)
    with torch.inference_mode():
        parts = [outputs(model, cache, ids[:, :3])]
    with torch.no_grad():
        parts.append(outputs(model, cache, ids[:, 3:6]))
    with torch.inference_mode():
        parts.append(outputs(model, cache, ids[:, 6:]))
        torch.testing.assert_close(torch.cat(parts, dim=1), model(ids).last_hidden_state)


@torch.no_grad()
def test_sequences_are_taken_and_copied_in_the_middle_of_a_block(model: DLRModel, blocks: list[Block]):
    """Beams are reordered, repeated and selected, and a deep copy goes its own way."""
    ids, cache = draw(7), DynamicCache(config=model.config)
    outputs(model, cache, ids[:, :4])
    twin = copy.deepcopy(cache)
    cache.reorder_cache(torch.tensor([1, 0]))
    cache.batch_repeat_interleave(2)
    cache.batch_select_indices(torch.tensor([3, 0]))
    torch.testing.assert_close(outputs(model, cache, ids[:, 4:]), model(ids).last_hidden_state[:, 4:])
    other = torch.cat([ids[:, :4], draw(3)], dim=1)
    torch.testing.assert_close(outputs(model, twin, other[:, 4:]), model(other).last_hidden_state[:, 4:])
    cache.reset()
    torch.testing.assert_close(outputs(model, cache, ids), model(ids).last_hidden_state)


@torch.no_grad()
def test_undetected_changes_apply_from_the_next_block(blocks: list[Block]):
    """A change that cannot be detected applies when the next block begins."""
    model = perturbed(DLRModel(tiny_config(num_hidden_layers=1, state_size=99)).eval()).double()
    ids, cache = draw(16), DynamicCache(config=model.config)
    outputs(model, cache, ids[:, :8])
    edit_one_number_through_data(model)
    settled = copy.deepcopy(cache)
    expected = model(ids[:, 8:], cache=settled).last_hidden_state
    torch.testing.assert_close(outputs(model, cache, ids[:, 8:]), expected)
    assert len(blocks) == 2


class Switch(nn.Module):
    """A parametrisation whose state is no parameter."""

    on = True

    def forward(self, x: Tensor) -> Tensor:
        """As it is, or 0."""
        return x * float(self.on)


def adapted(model: DLRModel) -> PeftModel:
    """A kernel with two adapters that hold kernels, of which the first is active."""
    peft_model = get_peft_model(model, LoraConfig(target_modules=["out_proj"], modules_to_save=["kernel"]))
    peft_model.add_adapter("other", LoraConfig(target_modules=["out_proj"], modules_to_save=["kernel"]))
    with torch.no_grad():
        for name, parameter in peft_model.named_parameters():
            if "modules_to_save" in name:
                parameter.add_(0.1 + 0.2 * ("other" in name))
    return peft_model


def set_adapter(model: DLRModel) -> Any:
    peft_model = adapted(model)
    yield
    peft_model.set_adapter("other")
    yield


def disable_adapter(model: DLRModel) -> Any:
    peft_model = adapted(model)
    yield
    with peft_model.disable_adapter():
        yield
    yield


def prune_weights(model: DLRModel) -> Any:
    kernel = model.layers[0].mixer.kernel
    yield
    prune.random_unstructured(kernel, "weights", 0.5)
    yield
    kernel.weights_mask.zero_()
    yield
    kernel.weights_mask.fill_(1)
    prune.remove(kernel, "weights")
    yield


def prune_skip(model: DLRModel) -> Any:
    mixer = model.layers[0].mixer
    prune.random_unstructured(mixer, "D", 0.5)
    yield
    mixer.D_mask.fill_(0)
    yield
    mixer.D_orig.data.add_(1)
    mixer.D_mask.data.fill_(1)
    yield


def switch_parametrisation(model: DLRModel) -> Any:
    kernel, switch = model.layers[0].mixer.kernel, Switch()
    yield
    parametrize.register_parametrization(kernel, "weights", switch)
    for switch.on in (False, True, False):
        yield
    switch.on = True
    parametrize.remove_parametrizations(kernel, "weights")
    yield


def double_output(kernel: nn.Module, inputs: Any, output: Any) -> Any:
    if isinstance(output, Tensor):
        return 2 * output
    return output._replace(weights_real=2 * output.weights_real, weights_imag=2 * output.weights_imag)


def hook_output(model: DLRModel) -> Any:
    kernel = model.layers[0].mixer.kernel
    yield
    hook = kernel.register_forward_hook(double_output)
    yield
    hook.remove()
    yield


def take_out(model: DLRModel) -> Any:
    """Replace the parameter by an attribute that is not a parameter, as sharding does."""
    kernel = model.layers[0].mixer.kernel
    yield
    weights = kernel.weights.detach()
    del kernel.weights
    for kernel.weights in (2 * weights, 3 * weights):
        yield


OTHERS = [set_adapter, disable_adapter, prune_weights, prune_skip, switch_parametrisation, hook_output, take_out]


@pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning")
@pytest.mark.parametrize("changes", OTHERS)
@torch.no_grad()
def test_what_else_makes_a_kernel_is_seen_at_once(model: DLRModel, changes: Callable[[DLRModel], Any]):
    """A cache in the middle of a block and its own copy, which has no block, go on alike, at every change."""
    ids, cache = draw(60), DynamicCache(config=model.config)
    model(ids[:, :7], cache=cache)
    answers = []
    for i, _ in enumerate(changes(model)):
        token = ids[:, 7 + 5 * i : 8 + 5 * i]
        settled = copy.deepcopy(cache)
        assert settled.layers[0].block is None
        torch.testing.assert_close(outputs(model, cache, token), outputs(model, settled, token))
        chunk = outputs(model, cache, ids[:, 8 + 5 * i : 12 + 5 * i])
        torch.testing.assert_close(chunk, model(ids[:, 8 + 5 * i : 12 + 5 * i], cache=settled).last_hidden_state)
        answers.append(model(ids).last_hidden_state)
    assert all(not torch.allclose(*pair, rtol=1e-3) for pair in pairwise(answers))


def test_tokens_without_a_gradient_cut_the_graph(model: DLRModel, blocks: list[Block]):
    """As chunks do: what was backpropagated through before is not reached again, and the cache can be copied."""
    ids, cache = draw(12), DynamicCache(config=model.config)
    model(ids[:, :4], cache=cache).last_hidden_state.sum().backward()
    with torch.no_grad():
        outputs(model, cache, ids[:, 4:7])
    twin = copy.deepcopy(cache)
    for each in (cache, twin):
        model(ids[:, 7:], cache=each).last_hidden_state.sum().backward()
    assert len(blocks) == 1


@pytest.mark.filterwarnings(
    "ignore:There is a performance drop", "ignore:`torch.jit", "ignore::torch.jit.TracerWarning"
)
@torch.no_grad()
def test_steps_where_blocks_cannot_be(model: DLRModel, blocks: list[Block]):
    """A parameter made in inference mode, an ensemble under vmap and a traced program take steps."""
    ids = draw(3)
    embedded = model.requires_grad_(False).embed_tokens(ids)
    parameters = {name: torch.stack([p, p]) for name, p in model.named_parameters()}

    def decoded(weights: dict[str, Tensor]) -> Tensor:
        cache = DynamicCache(config=model.config)
        inputs = ({"inputs_embeds": token, "cache": cache} for token in embedded.split(1, dim=1))
        parts = [torch.func.functional_call(model, weights, (), each).last_hidden_state for each in inputs]
        return torch.cat(parts, dim=1)

    expected = model(ids).last_hidden_state
    for member in torch.vmap(decoded)(parameters):
        torch.testing.assert_close(member, expected)

    def traced(token: Tensor) -> Tensor:
        return model(inputs_embeds=token, cache=DynamicCache(config=model.config)).last_hidden_state

    program = torch.jit.trace(traced, embedded[:, :1], check_trace=False)
    torch.testing.assert_close(program(embedded[:, 1:2]), traced(embedded[:, 1:2]))
    before = len(blocks)

    kernel = model.layers[0].mixer.kernel
    with torch.inference_mode():
        kernel.weights = nn.Parameter(kernel.weights * 2, requires_grad=False)
    assert_decodes(model, ids)
    assert len(blocks) == before == 1  # that of `traced` outside of its trace


@torch.no_grad()
def test_offloaded_weights_are_fetched(model: DLRModel, blocks: list[Block]):
    """Prompt and tokens of a model whose parameters are offloaded between two calls of a module."""
    ids = draw(9)
    expected = model(ids).last_hidden_state
    cache = DynamicCache(config=model.config)
    offloaded = cpu_offload(model, execution_device="cpu")
    parts = [offloaded(ids[:, :5], cache=cache).last_hidden_state, outputs(offloaded, cache, ids[:, 5:])]
    torch.testing.assert_close(torch.cat(parts, dim=1), expected)


@pytest.mark.parametrize("head", [False, True], ids=["backbone", "head"])
@pytest.mark.parametrize("seen", [0, 5, 8], ids="after {} tokens".format)
@pytest.mark.parametrize(("tokens", "kernel_type"), [(1, "dlr"), (5, "dlr"), (1, "s4d")])
@pytest.mark.parametrize(("of_kernel", "value"), [(True, torch.nan), (True, torch.inf), (False, -torch.inf)])
@torch.no_grad()
def test_what_is_not_finite_moves_no_state(
    of_kernel: bool, value: float, tokens: int, kernel_type: str, seen: int, head: bool, blocks: list[Block]
):
    """It is refused by its name before the layers below it have gone on, wherever in a block."""
    config = tiny_config(num_hidden_layers=2, kernel_parameters={"kernel_type": kernel_type})
    model = (DLRForCausalLM if head else DLRModel)(config).eval()
    mixer = (model.model if head else model).layers[1].mixer
    name = ("angle" if kernel_type == "dlr" else "log_time_step") if of_kernel else "D"
    ids, cache = draw(20), DynamicCache(config=model.config)
    for i in range(seen):
        model(ids[:, i : i + 1], cache=cache)
    states = copy.deepcopy(cache).layers
    (mixer.kernel if of_kernel else mixer).get_parameter(name).view(-1)[0] = value
    path = f"model.layers.1.mixer.{'kernel.' * of_kernel}{name}"
    with pytest.raises(ValueError, match=f"^{re.escape(path)} must be finite, got {value}: lower the learning rate"):
        model(ids[:, seen : seen + tokens], cache=cache)
    assert [layer.get_seq_length() for layer in cache.layers] == [seen, seen]
    for layer, before in zip(copy.deepcopy(cache).layers, states, strict=True):
        assert before.keys is layer.keys is None or torch.equal(layer.keys, before.keys)
