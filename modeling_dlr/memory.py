"""How much memory a model takes, computed from its configuration.

During training, autograd keeps what the backward pass reads: tensors of B L H numbers in every layer, listed by
`saved_per_step`, and the kernels, which do not grow with the batch. Most memory is in use in the loss, or when the
backward pass convolves in the last layer: then all other layers are still kept, and beside them lie gradients and the
buffers of the Fourier transforms. With checkpointing, a layer keeps its input only, and one layer at a time is computed
again. Without gradients, only the layer that is computed takes memory, and the kernels of all layers.

Sizes are bytes. Letters are those of `ops_dlr`: B sequences, L steps, H channels, C kernels per channel.
"""

from dataclasses import dataclass
from typing import Literal

from modeling_dlr.configuration_dlr import DLRConfig
from modeling_dlr.convolution_dlr import block_sizes, transform_size
from modeling_dlr.vandermonde_dlr import numbers_per_chunk

Head = Literal["language", "steps", "pooled"]
Device = Literal["cpu", "cuda"]

BYTES = {"float64": 8, "float32": 4, "bfloat16": 2, "float16": 2}
# Activations whose backward pass reads what the next layer keeps anyway: their output, or nothing.
_READ_THEIR_OUTPUT = {None, "linear", "relu", "sigmoid", "tanh"}
# Kernels that no memo holds, but whose parts autograd keeps, in multiples of the kernel.
_SGCONV = 3
# Bytes that autograd keeps for every pole of every channel, of kernels whose poles depend on the channel.
_PER_POLE = {"dlr": 0, "dss": 160, "s4d": 208, "sgconv": 0}


@dataclass(frozen=True)
class Pass:
    """What one process computes at once.

    Attributes:
        batch: B.
        length: L.
        training: forward and backward; otherwise forward without gradients.
        checkpointing: of gradients.
        dtype: of the activations, and of all parameters but the kernels'.
        head: "language" has logits over the vocabulary at every step, "steps" over the labels at every step, and
            "pooled" over the labels once.
        device: on the CPU, transforms are cut into blocks that fit the cache.
        parts: processes over which every sequence is split.
    """

    batch: int
    length: int
    training: bool = True
    checkpointing: bool = False
    dtype: str = "float32"
    head: Head = "language"
    device: Device = "cpu"
    parts: int = 1

    @property
    def steps(self) -> int:
        """B L, of this process."""
        return self.batch * -(-self.length // self.parts)

    @property
    def size(self) -> int:
        """Bytes of a number of an activation."""
        return BYTES[self.dtype]

    @property
    def wide(self) -> int:
        """Bytes of a number of kernels, convolutions and losses, which are at least float32."""
        return max(4, self.size)


@dataclass(frozen=True)
class Activations:
    """What a pass takes beside parameters, gradients and optimizer.

    Attributes:
        layer: what autograd keeps of a layer, without its kernel; the mean over the layers.
        per_step: the same for one step of one sequence.
        kernel: of a layer; the mean over the layers.
        head: what is kept behind the last layer, and the loss.
        peak: the most that lies in memory at once.
        moment: when that is.
    """

    layer: float
    per_step: float
    kernel: float
    head: float
    peak: float
    moment: str


def activations(config: DLRConfig, work: Pass) -> Activations:
    """What a pass through a model takes.

    >>> config = DLRConfig(hidden_size=64, num_hidden_layers=4, vocab_size=16, bidirectional=True)
    >>> found = activations(config, Pass(batch=4, length=4096))
    >>> found.per_step == 4 * 64 * 4 + 2 * 4  # four numbers per channel, and mean and deviation of the norm
    True
    """
    kinds = config.layer_types or []
    kept = [saved_per_step(config, kind, work) for kind in kinds]
    kernels = [kernel_bytes(config, kind, work) for kind in kinds]
    head = head_bytes(config, work)
    moments = _training_moments(config, work) if work.training else _inference_moments(config, work)
    moment = max(moments, key=lambda name: moments[name])
    count = len(kinds)
    return Activations(
        sum(kept) * work.steps / count, sum(kept) / count, sum(kernels) / count, head, moments[moment], moment
    )


def saved_per_step(config: DLRConfig, kind: str, work: Pass) -> int:
    """Bytes that autograd keeps of a layer for every step of every sequence.

    Args:
        config: of the model.
        kind: of the layer, as in ``config.layer_types``.
        work: only its type of numbers counts.
    """
    H, a, f = config.hidden_size, work.size, work.wide
    kept = _norm_per_step(config, work)
    if kind != "dlr":
        return kept + _attention_per_step(config, kind, work)
    C, gated = config.num_kernel_channels, config.channel_gate_act is not None
    reads_input = config.hidden_act not in _READ_THEIR_OUTPUT
    kept += H * f  # the input of the convolution
    kept += C * H * a  # the output of the activation, which the projection reads
    kept += (2 * C * H + C * H) * a if gated else 0  # values with their gates, and activated gates
    kept += C * H * a if reads_input else 0
    return kept + _gates_and_dropout(config, a, C)


def _gates_and_dropout(config: DLRConfig, a: int, C: int) -> int:
    H = config.hidden_size
    kept = {None: 0, "glu": 2 * H * a, "geglu": 3 * H * a}[config.output_gate]
    masks = config.hidden_dropout_prob not in (0, 1) and config.dropout_type == "element"
    return kept + ((C + 1) * H * a if masks else 0)


def _norm_per_step(config: DLRConfig, work: Pass) -> int:
    H, a, f = config.hidden_size, work.size, work.wide
    return {
        "layer": H * a + 2 * a,  # its input, mean and deviation
        "scalar_layer": 3 * H * f + 2 * f,  # its input, the input minus the mean, and that times the scale
        "batch": 3 * H * f + f,
    }[config.norm_type]


def _attention_per_step(config: DLRConfig, kind: str, work: Pass) -> int:
    H, a, f, heads = config.hidden_size, work.size, work.wide, config.num_attention_heads
    kept = 4 * heads + 4 * H // heads // work.batch  # normalisers of the softmax, and rotations, which a batch shares
    if kind == "full_attention":
        kept += 8 * H * a + H * f
    else:
        chunks = 3 if config.bidirectional else 2
        kept += (6 + 2 * chunks) * H * a + H * f + chunks * config.attention_window * a
    ratio = config.attention_ff_ratio
    kept += 4 * ratio * H * a + 4 * (H + 1) * a if ratio else 0
    return kept + _gates_and_dropout(config, a, 1)


def kernel_bytes(config: DLRConfig, kind: str, work: Pass) -> int:
    """Bytes of the kernels of a layer, for any number of sequences, and what autograd keeps to compute them."""
    if kind != "dlr":
        return 0
    channels, length = _kernel_rows(config, work), _kernel_length(config, work)
    family = (config.kernel_parameters or {})["kernel_type"]
    kept = channels * length * work.wide
    if work.training:
        kept += _SGCONV * kept if family == "sgconv" else 0
        kept += _PER_POLE[family] * _channels(config, work) * config.state_size
    return kept


def _channels(config: DLRConfig, work: Pass) -> int:
    """Channels whose kernels this process evaluates."""
    return -(-config.hidden_size // work.parts)


def _kernel_rows(config: DLRConfig, work: Pass) -> int:
    return _outputs(config) * config.num_directions * _channels(config, work)


def _outputs(config: DLRConfig) -> int:
    """Outputs of the convolution for each channel: C, and as many gates."""
    return config.num_kernel_channels * (1 if config.channel_gate_act is None else 2)


def _kernel_length(config: DLRConfig, work: Pass) -> int:
    return min(work.length, (config.kernel_parameters or {})["max_length"] or work.length)


def head_bytes(config: DLRConfig, work: Pass) -> int:
    """Bytes behind the last layer: the last norm, logits and the loss, at their most."""
    H, a, f, steps = config.hidden_size, work.size, work.wide, work.steps
    norm = _norm_per_step(config, work) * steps if config.norm_position == "pre" else 0
    if work.head == "pooled":
        return norm if work.training else 0
    width = int((config.vocab_size if work.head == "language" else config.num_labels) or 0)
    if not work.training:
        return steps * width * a
    return norm + steps * (H * a + 3 * width * f)  # log_softmax of the logits, its gradient, and theirs


def _training_moments(config: DLRConfig, work: Pass) -> dict[str, int]:
    """Bytes at the moments that may be the largest, by their names."""
    H, a, steps = config.hidden_size, work.size, work.steps
    kinds = config.layer_types or []
    stream = H * a * steps
    whole = [saved_per_step(config, kind, work) * steps for kind in kinds]
    before = [stream] * len(kinds) if work.checkpointing else whole
    kernels = sum(kernel_bytes(config, kind, work) for kind in kinds)
    moments = {"the loss": sum(before) + kernels + head_bytes(config, work)}
    for place, kind in enumerate(kinds):
        inside = _convolution(config, work) if kind == "dlr" else _attention_backward(config, kind, work)
        earlier = sum(before[:place]) + kernels
        moments[f"the backward pass of layer {place + 1}"] = earlier + stream + whole[place] + inside
    return moments


def _convolution(config: DLRConfig, work: Pass) -> int:
    """What the backward pass of a convolution adds to what its layer keeps, without what is freed by then."""
    H, f, steps = config.hidden_size, work.wide, work.steps
    freed = saved_per_step(config, "dlr", work) - _norm_per_step(config, work) - H * f
    gradients = (_outputs(config) + 1) * H * f * steps  # of the outputs and of the input
    of_kernel = _kernel_rows(config, work) * _kernel_length(config, work) * f
    buffers = _transforms(config, work, backward=True)
    product = (
        of_kernel + _product_buffers(config, work) - _outputs(config) * H * f * steps
    )  # the gradient of the output is freed
    split = 2 * H * f * steps if work.parts > 1 else 0  # an all-to-all has what it sends beside what it receives
    return gradients + of_kernel + max(buffers, product) + split - freed * steps


def _product_buffers(config: DLRConfig, work: Pass) -> int:
    """A chunk of the gradient and its first moment, of its products with fine powers, and of these powers."""
    rows, length, N = _kernel_rows(config, work), _kernel_length(config, work), config.state_size
    block = min(1024, max(64, round((2 * rows * length) ** 0.5)), length)
    numbers = 2 * rows * length, 4 * rows * (length // block + 1) * N, 2 * N * block
    return sum(min(numbers_per_chunk(work.device), each) for each in numbers) * work.wide


def _attention_backward(config: DLRConfig, kind: str, work: Pass) -> int:
    """Gradients of queries, keys, values and the output, while all that the layer keeps is there."""
    chunks = 1 if kind == "full_attention" else 3 if config.bidirectional else 2
    return (2 + 2 * chunks) * config.hidden_size * work.size * work.steps


def _transforms(config: DLRConfig, work: Pass, *, backward: bool) -> int:
    """Buffers of the Fourier transforms of a block of channels and sequences; see `_Convolution`."""
    L, Lk, B = work.length, _kernel_length(config, work), work.batch
    n, C = transform_size(L + Lk), _outputs(config)
    channels, sequences = block_sizes(B, _channels(config, work), n, work.device)
    several = channels * sequences < _channels(config, work) * B  # then those of the block before are not yet freed
    block = channels * sequences
    of_inputs = sequences * min(channels, 16) * L + block * n  # a strip to transpose, and padded
    of_kernels = 2 * C * channels * n  # padded, and transformed
    if backward:
        transformed = (1 + C) * block * n + C * block * n  # inputs, gradients, and the sum of their products
        others = C * block * n if several else block * n
    else:
        transformed, others = block * n, 2 * block * n
    return (of_inputs + of_kernels + transformed + others) * work.wide


def _inference_moments(config: DLRConfig, work: Pass) -> dict[str, int]:
    H, a, f, steps = config.hidden_size, work.size, work.wide, work.steps
    kinds = config.layer_types or []
    kernels = sum(kernel_bytes(config, kind, work) for kind in kinds)
    C, outputs = config.num_kernel_channels, _outputs(config)
    inputs = (2 if config.norm_position == "pre" else 1) * H * a
    copy = H * f if a < f else 0
    gate = {None: 0, "glu": H * a, "geglu": 2 * H * a}[config.output_gate]
    projected = (1 if config.output_gate is None else 2) * H * a + gate
    moments = {"the last logits": kernels + inputs * steps + head_bytes(config, work)}
    if "dlr" in kinds:
        mixed = outputs * H * f
        moments["a convolution"] = kernels + (inputs + copy + mixed) * steps + _transforms(config, work, backward=False)
        moments["a projection"] = kernels + (inputs + (outputs + C) * H * a + projected) * steps
    if any(kind != "dlr" for kind in kinds):
        moments["attention"] = kernels + (inputs + 8 * H * a) * steps
    return moments
