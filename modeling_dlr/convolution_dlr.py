"""The convolution y = K * u by fast Fourier transforms, block by block of channels and sequences that fit the cache."""

import torch
from torch import Tensor

from .vandermonde_dlr import first_derivatives

# Numbers of a block that fits the cache. A call makes its table of roots, which takes as long as 10 to 30 transforms: a
# block has 128 transforms therefore, unless they exceed 8 MB of float32.
_NUMBERS_PER_BLOCK, _TRANSFORMS, _MOST_NUMBERS = 2**19, 128, 2**21
# Channels to transpose at once: a line of the processor's cache. Fewest channels of a block: two lines, or half a line
# where the transforms of more would exceed the most numbers.
_STRIP, _CHANNELS, _FEWEST_CHANNELS = 16, 32, 8
# Sequences that are transposed directly.
_SHORT = 256


def convolve(u: Tensor, kernel: Tensor, reverse_kernel: Tensor | None, skip: Tensor) -> Tensor:
    """Long convolution, causal or in both directions, with the skip connection D.

    y[b,i,c,h] = Σ_{j>=0} K[c,h,j] u[b,i-j,h] + Σ_{j>=0} K'[c,h,j] u[b,i+1+j,h] + D[c,h] u[b,i,h]

    Args:
        u: [B, L, H] real, float32 or float64.
        kernel: K, [C, H, Lk] with Lk <= L.
        reverse_kernel: K', [C, H, Lk], whose first tap reads the next step; None for a causal convolution.
        skip: D, [C, H].

    Returns:
        [B, L, C, H].

    Raises:
        ValueError: if the shapes do not fit, or u is not real-valued.

    Source: DLR §3 and its bidirectional form; one transform of L + Lk steps serves both directions.
    """
    if not u.is_floating_point():
        raise ValueError(f"The input of a convolution must be float32 or float64, got {u.dtype}: embed or cast it.")
    fits = u.dim() == 3 and kernel.dim() == 3 and kernel.shape[1] == u.shape[2] and kernel.shape[2] <= u.shape[1]
    if not fits or skip.shape != kernel.shape[:2]:
        raise ValueError(
            f"u [B, L, H], a kernel [C, H, Lk <= L] and D [C, H] do not fit: got {list(u.shape)}, "
            f"{list(kernel.shape)} and {list(skip.shape)}."
        )
    if torch.compiler.is_compiling():
        return _convolve_plainly(u, kernel, reverse_kernel, skip)
    return _Convolution.apply(u, kernel, reverse_kernel, skip)


def _convolve_plainly(u: Tensor, kernel: Tensor, reverse_kernel: Tensor | None, skip: Tensor) -> Tensor:
    """`_Convolution` by differentiable operations, for `torch.compile` and `torch.export`.

    Exported programs use complex transforms in float64. In ONNX Runtime the error in float32 grows with the size unless
    it is a power of two, and there is no inverse of a real transform.
    """
    L, Lk = u.shape[1], kernel.shape[-1]
    n, exporting = 2 * L, torch.compiler.is_exporting()
    dtype = torch.float64 if exporting else u.dtype
    # Permuted here, because ONNX cannot permute complex numbers.
    rows = u.transpose(1, 2).unsqueeze(1).to(dtype)
    circular = torch.nn.functional.pad(kernel.to(dtype), (0, n - Lk))
    if reverse_kernel is not None:
        circular = circular + torch.nn.functional.pad(reverse_kernel.to(dtype).flip(-1), (n - Lk, 0))
    if exporting:
        y = torch.fft.ifft(torch.fft.fft(rows, n=n) * torch.fft.fft(circular)).real
    else:
        y = torch.fft.irfft(torch.fft.rfft(rows, n=n) * torch.fft.rfft(circular), n=n)
    return y[..., :L].to(u.dtype).permute(0, 3, 1, 2) + skip * u.unsqueeze(2)


def transform_size(minimum: int) -> int:
    """The smallest even 2^a · {1, 3, 5, 9, 15} that is at least ``minimum``: sizes whose transforms are fast.

    >>> [transform_size(n) for n in (1, 7, 97, 1000)]
    [2, 8, 120, 1024]
    """
    return min(odd << max(1, (-(-minimum // odd) - 1).bit_length()) for odd in (1, 3, 5, 9, 15))


def block_sizes(B: int, H: int, n: int, device_type: str) -> tuple[int, int]:
    """How many channels and sequences are transformed at once, by ``n`` points: on the CPU those that fit the cache."""
    if device_type != "cpu":
        return H, B
    fitting = max(_NUMBERS_PER_BLOCK // n, min(_TRANSFORMS, _MOST_NUMBERS // n))
    fewest = max(_FEWEST_CHANNELS, min(_CHANNELS, _MOST_NUMBERS // n))
    channels = min(max(fewest, fitting // max(1, B)), H)
    return channels, min(max(1, fitting // channels), B)


class _Convolution(torch.autograd.Function):
    """`convolve`, which saves only its inputs for the backward pass.

    Blocks of the input are transposed to [b, h, L] before a transform and back afterwards: a transposed copy of the
    whole input would take longer than the arithmetic.
    """

    @staticmethod
    def forward(ctx, u: Tensor, kernel: Tensor, reverse_kernel: Tensor | None, skip: Tensor) -> Tensor:
        ctx.save_for_backward(u, kernel, reverse_kernel, skip)
        C, work = kernel.shape[0], _Workspace(u, kernel)
        y = u.new_empty(*u.shape[:2], *skip.shape)
        for h in work.channels:
            kernel_fft = work.transform_kernel(kernel, reverse_kernel, skip, h)
            for b in work.sequences:
                input_fft = work.transform_input(u[b, :, h])
                for c in range(C):
                    product = input_fft.mul_(kernel_fft[c]) if C == 1 else input_fft * kernel_fft[c]
                    y[b, :, c, h] = work.inverse(product)
        return y

    @staticmethod
    @first_derivatives
    def backward(ctx, grad: Tensor):
        u, kernel, reverse_kernel, skip = ctx.saved_tensors
        C, work = kernel.shape[0], _Workspace(u, kernel)
        new = torch.empty_like if len(u) else torch.zeros_like
        d_u, d_kernel, d_skip = new(u), new(kernel), new(skip)
        d_reverse = None if reverse_kernel is None else new(reverse_kernel)
        for h in work.channels:
            kernel_fft = work.transform_kernel(kernel, reverse_kernel, skip, h).conj_physical_()
            products = kernel_fft.new_empty(C, len(work.padded), *kernel_fft.shape[1:])
            for b in work.sequences:
                U = work.transform_input(u[b, :, h]).conj_physical_()
                grad_ffts = [work.transform_input(grad[b, :, c, h]) for c in range(C)]
                for product, G in zip(products, grad_ffts, strict=True):
                    if b.start:
                        product[: len(G)].addcmul_(G, U)
                    else:  # no later block has more sequences
                        torch.mul(G, U, out=product)
                back, *others = (G.mul_(each) for G, each in zip(grad_ffts, kernel_fft, strict=True))
                for other in others:
                    back.add_(other)
                d_u[b, :, h] = work.inverse(back)
            lags = torch.fft.irfft(products.sum(1), n=work.n)
            d_kernel[:, h], d_skip[:, h] = lags[..., : work.Lk], lags[..., 0]
            if d_reverse is not None:
                d_reverse[:, h] = lags[..., work.n - work.Lk :].flip(-1)
        return d_u, d_kernel, d_reverse, d_skip


class _Workspace:
    """Zero-padded buffers for a block of channels and sequences, and their transforms.

    Attributes:
        n: size of the transforms.
        channels: slices of the channels, one for each block.
        sequences: slices of the sequences, one for each block.
    """

    def __init__(self, u: Tensor, kernel: Tensor):
        (self.B, self.L, self.H), (C, _, self.Lk) = u.shape, kernel.shape
        self.n = transform_size(self.L + self.Lk)
        channels, sequences = block_sizes(self.B, self.H, self.n, u.device.type)
        # No channels of an empty batch, which the transforms refuse.
        self.channels, self.sequences = _slices(self.H if self.B else 0, channels), _slices(self.B, sequences)
        # On a CPU, copying a strip of channels first halves the time of transposing.
        direct = u.device.type != "cpu" or self.L < _SHORT
        self.strip = None if direct else u.new_empty(sequences, self.L, min(_STRIP, channels))
        both = u.new_empty(sequences + C, channels, self.n)
        both[..., self.Lk :] = 0
        self.padded, self.circular = both[:sequences], both[sequences:]

    def transform_input(self, x: Tensor) -> Tensor:
        """Transpose, pad and transform [b, L, h] to [b, h, n/2+1]."""
        padded = self.padded[: x.shape[0], : x.shape[2]]
        for h in _slices(x.shape[2], x.shape[2] if self.strip is None else _STRIP):
            few = x[..., h]
            if self.strip is not None:
                few = self.strip[: len(few), :, : few.shape[2]].copy_(few)
            padded[:, h, : self.L] = few.mT
        return torch.fft.rfft(padded)

    def transform_kernel(self, kernel: Tensor, reverse_kernel: Tensor | None, skip: Tensor, h: slice) -> Tensor:
        """Transform the kernels to [C, h, n/2+1]: K[j] is at position j, plus D at position 0, and K'[j] at n-1-j."""
        circular = self.circular[:, : h.stop - h.start]
        circular[..., : self.Lk] = kernel[:, h]
        circular[..., 0].add_(skip[:, h])
        if reverse_kernel is not None:
            circular[..., self.n - self.Lk :] = reverse_kernel[:, h].flip(-1)
        return torch.fft.rfft(circular)

    def inverse(self, product: Tensor) -> Tensor:
        """Transform [b, h, n/2+1] back to the first L steps, [b, L, h]."""
        return torch.fft.irfft(product, n=self.n)[..., : self.L].mT


def _slices(count: int, size: int) -> list[slice]:
    return [slice(start, min(start + size, count)) for start in range(0, count, max(1, size))]
