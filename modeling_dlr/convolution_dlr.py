"""The convolution form: y = K * u by fast Fourier transforms, a cache-sized block of channels at a time."""

from collections.abc import Iterator

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

# Numbers that the transforms of one channel block may hold: they should stay in the cache.
_NUMBERS_PER_BLOCK = 2**18


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
    """`_Convolution` in one piece and in differentiable operations, for `torch.compile` and `torch.export`."""
    L, Lk = u.shape[1], kernel.shape[-1]
    n = 2 * L
    taps = torch.nn.functional.pad(kernel, (0, n - Lk))
    if reverse_kernel is not None:
        taps = taps + torch.nn.functional.pad(reverse_kernel.flip(-1), (n - Lk, 0))
    product = torch.fft.rfft(u.transpose(1, 2), n=n).unsqueeze(1) * torch.fft.rfft(taps)
    return torch.fft.irfft(product, n=n)[..., :L].permute(0, 3, 1, 2) + skip * u.unsqueeze(2)


def transform_size(minimum: int) -> int:
    """The smallest even 2^a · {1, 3, 5, 9, 15} that is at least ``minimum``: sizes whose transforms are fast.

    >>> [transform_size(n) for n in (1, 7, 97, 1000)]
    [2, 8, 120, 1024]
    """
    return min(odd << max(1, (-(-minimum // odd) - 1).bit_length()) for odd in (1, 3, 5, 9, 15))


class _Convolution(torch.autograd.Function):
    """`convolve`, keeping only its inputs for the backward pass.

    Transforms run along the last dimension, so the input is turned to [B, H, L] first and the output back again.
    """

    @staticmethod
    def forward(ctx, u: Tensor, kernel: Tensor, reverse_kernel: Tensor | None, skip: Tensor) -> Tensor:
        ctx.save_for_backward(u, kernel, reverse_kernel, skip)
        (B, L, H), C = u.shape, kernel.shape[0]
        turned = _turned(u)
        y = turned.unsqueeze(1) if C == 1 else u.new_empty(B, C, H, L)
        workspace = _Workspace(turned, kernel)
        for h in workspace.blocks():
            spectrum = workspace.transform_input(turned[:, h]).unsqueeze(1)
            taps = workspace.transform_taps(kernel, reverse_kernel, skip, h)
            product = spectrum.mul_(taps) if C == 1 else spectrum * taps
            y[:, :, h] = workspace.inverse(product)
        return _turned(y.flatten(1, 2)).unflatten(-1, (C, H))

    @staticmethod
    @once_differentiable
    def backward(ctx, grad: Tensor):
        u, kernel, reverse_kernel, skip = ctx.saved_tensors
        C, H, Lk = kernel.shape
        d_kernel, d_skip = torch.zeros_like(kernel), torch.zeros_like(skip)
        d_reverse = None if reverse_kernel is None else torch.zeros_like(reverse_kernel)
        grad, turned = _turned(grad.flatten(2)).unflatten(1, (C, H)), _turned(u)
        workspace = _Workspace(turned, kernel)
        for h in workspace.blocks():
            U = workspace.transform_input(turned[:, h])
            taps = workspace.transform_taps(kernel, reverse_kernel, skip, h).conj_physical_()
            back = torch.zeros_like(U)
            for c in range(C):
                G = workspace.transform_input(grad[:, c, h])
                d_taps = torch.fft.irfft(torch.mul(G, U.conj()).sum(0), n=workspace.n)  # [h, n]
                d_kernel[c, h], d_skip[c, h] = d_taps[:, :Lk], d_taps[:, 0]
                if d_reverse is not None:
                    d_reverse[c, h] = d_taps[:, workspace.n - Lk :].flip(-1)
                back.addcmul_(G, taps[c])
            turned[:, h] = workspace.inverse(back)
        return _turned(turned), d_kernel, d_reverse, d_skip


def _turned(x: Tensor) -> Tensor:
    """A contiguous [B, n, m] of x [B, m, n]; on the CPU matrix by matrix, which is more than twice as fast."""
    if x.device.type != "cpu":
        return x.transpose(1, 2).contiguous()
    turned = x.new_empty(x.shape[0], x.shape[2], x.shape[1])
    for source, target in zip(x.contiguous(), turned, strict=True):
        target.copy_(source.t())
    return turned


class _Workspace:
    """Zero-padded buffers for one block of channels after another, and the transforms between them."""

    def __init__(self, u: Tensor, kernel: Tensor):
        (self.B, self.H, self.L), (C, _, self.Lk) = u.shape, kernel.shape
        self.n = transform_size(self.L + self.Lk)
        on_cpu = u.device.type == "cpu"
        self.size = max(8, min(_NUMBERS_PER_BLOCK // max(1, self.B * self.n), self.H)) if on_cpu else self.H
        self.padded = u.new_zeros(self.B, self.size, self.n)
        self.circular = kernel.new_zeros(C, self.size, self.n)

    def blocks(self) -> Iterator[slice]:
        """The channels, block by block; none for an empty batch, which the transforms refuse."""
        return (slice(h, min(h + self.size, self.H)) for h in range(0, self.H if self.B else 0, self.size))

    def transform_input(self, x: Tensor) -> Tensor:
        """[B, h, L], padded and transformed: [B, h, n/2+1]."""
        padded = self.padded[:, : x.shape[1]]
        padded[..., : self.L] = x
        return torch.fft.rfft(padded)

    def transform_taps(self, kernel: Tensor, reverse_kernel: Tensor | None, skip: Tensor, h: slice) -> Tensor:
        """[C, h, n/2+1]: lag j of K at position j, lag -1-j of K' at position n-1-j, and D added at lag 0."""
        taps = self.circular[:, : h.stop - h.start]
        taps[..., : self.Lk] = kernel[:, h]
        taps[..., 0] += skip[:, h]
        if reverse_kernel is not None:
            taps[..., self.n - self.Lk :] = reverse_kernel[:, h].flip(-1)
        return torch.fft.rfft(taps)

    def inverse(self, spectrum: Tensor) -> Tensor:
        """[..., n/2+1] back to the first L steps, [..., L]."""
        return torch.fft.irfft(spectrum, n=self.n)[..., : self.L]
