"""The convolution form: y = K * u by fast Fourier transforms, a cache-sized block of channels at a time."""

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

# Numbers that the transforms of one channel block may hold: they should stay in the cache.
_NUMBERS_PER_BLOCK = 2**18


def convolve(u: Tensor, kernel: Tensor, reverse_kernel: Tensor | None, skip: Tensor) -> Tensor:
    """Long convolution, causal or in both directions, with the skip connection D.

    y[b,c,h,i] = Σ_{j>=0} K[c,h,j] u[b,h,i-j] + Σ_{j>=0} K'[c,h,j] u[b,h,i+1+j] + D[c,h] u[b,h,i]

    Args:
        u: [B, H, L] real, float32 or float64.
        kernel: K, [C, H, Lk] with Lk <= L.
        reverse_kernel: K', [C, H, Lk], whose first tap reads the next step; None for a causal convolution.
        skip: D, [C, H].

    Returns:
        [B, C, H, L].

    Source: DLR §3 and its bidirectional form; one transform of L + Lk steps serves both directions.
    """
    if torch.compiler.is_compiling():
        return _convolve_plainly(u, kernel, reverse_kernel, skip)
    return _Convolution.apply(u, kernel, reverse_kernel, skip)


def _convolve_plainly(u: Tensor, kernel: Tensor, reverse_kernel: Tensor | None, skip: Tensor) -> Tensor:
    """`_Convolution` in one piece and in differentiable operations, for `torch.compile` and `torch.export`."""
    L, Lk = u.shape[-1], kernel.shape[-1]
    n = 2 * L
    taps = torch.nn.functional.pad(kernel, (0, n - Lk))
    if reverse_kernel is not None:
        taps = taps + torch.nn.functional.pad(reverse_kernel.flip(-1), (n - Lk, 0))
    product = torch.fft.rfft(u, n=n).unsqueeze(1) * torch.fft.rfft(taps)
    return torch.fft.irfft(product, n=n)[..., :L] + skip.unsqueeze(-1) * u.unsqueeze(1)


def transform_size(minimum: int) -> int:
    """The smallest even 2^a · {1, 3, 5, 9, 15} that is at least ``minimum``: sizes whose transforms are fast.

    >>> [transform_size(n) for n in (1, 7, 97, 1000)]
    [2, 8, 120, 1024]
    """
    return min(odd << max(1, (-(-minimum // odd) - 1).bit_length()) for odd in (1, 3, 5, 9, 15))


class _Convolution(torch.autograd.Function):
    """`convolve`, keeping only its inputs for the backward pass."""

    @staticmethod
    def forward(ctx, u: Tensor, kernel: Tensor, reverse_kernel: Tensor | None, skip: Tensor) -> Tensor:
        ctx.save_for_backward(u, kernel, reverse_kernel, skip)
        (B, H, L), C = u.shape, kernel.shape[0]
        y = u.new_empty(B, C, H, L)
        n, blocks = _blocks(u, kernel)
        for h in blocks:
            taps = _circular_taps(kernel[:, h], None if reverse_kernel is None else reverse_kernel[:, h], skip[:, h], n)
            spectrum = torch.fft.rfft(u[:, h], n=n).unsqueeze(1)
            product = spectrum.mul_(torch.fft.rfft(taps)) if C == 1 else spectrum * torch.fft.rfft(taps)
            y[:, :, h] = torch.fft.irfft(product, n=n)[..., :L]
        return y

    @staticmethod
    @once_differentiable
    def backward(ctx, grad: Tensor):
        u, kernel, reverse_kernel, skip = ctx.saved_tensors
        L, Lk = u.shape[-1], kernel.shape[-1]
        d_u, d_kernel, d_skip = torch.empty_like(u), torch.zeros_like(kernel), torch.zeros_like(skip)
        d_reverse = None if reverse_kernel is None else torch.zeros_like(reverse_kernel)
        n, blocks = _blocks(u, kernel)
        for h in blocks:
            taps = _circular_taps(kernel[:, h], None if reverse_kernel is None else reverse_kernel[:, h], skip[:, h], n)
            G = torch.fft.rfft(grad[:, :, h], n=n)  # [B, C, h, F]
            correlation = (G * torch.fft.rfft(u[:, h], n=n).conj().unsqueeze(1)).sum(0)
            d_taps = torch.fft.irfft(correlation, n=n)  # [C, h, n]
            d_kernel[:, h], d_skip[:, h] = d_taps[..., :Lk], d_taps[..., 0]
            if d_reverse is not None:
                d_reverse[:, h] = d_taps[..., n - Lk :].flip(-1)
            d_u[:, h] = torch.fft.irfft((G * torch.fft.rfft(taps).conj()).sum(1), n=n)[..., :L]
        return d_u, d_kernel, d_reverse, d_skip


def _blocks(u: Tensor, kernel: Tensor) -> tuple[int, list[slice]]:
    """The transform size, and the channels cut into blocks: none for an empty batch, which transforms refuse."""
    B, H, L = u.shape
    n = transform_size(L + kernel.shape[-1])
    size = max(4, min(_NUMBERS_PER_BLOCK // max(1, B * n), H))
    return n, [slice(h, min(h + size, H)) for h in range(0, H if B else 0, size)]


def _circular_taps(kernel: Tensor, reverse_kernel: Tensor | None, skip: Tensor, n: int) -> Tensor:
    """[C, h, n]: lag j of K at position j, lag -1-j of K' at position n-1-j, and D added at lag 0."""
    Lk = kernel.shape[-1]
    taps = kernel.new_zeros(*kernel.shape[:-1], n)
    taps[..., :Lk] = kernel
    taps[..., 0] += skip
    if reverse_kernel is not None:
        taps[..., n - Lk :] = reverse_kernel.flip(-1)
    return taps
