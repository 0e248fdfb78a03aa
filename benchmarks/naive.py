"""The plain formulation of a DLR and a DSS layer: the formulas of the papers, without optimisation.

It stores exp(log Λ · l) for every pole and step in one complex64 array. Layout [B, H, L], FFTs of 2 L steps.
"""

import torch
from torch import Tensor
from torch.nn import functional


def dlr_kernel(decay: Tensor, angle: Tensor, weights: Tensor, length: int) -> Tensor:
    """K[h,l] = Re Σ_n W[h,n] exp((decay + i angle)[n] · l): [N], [N] and [H, N, 2] to [H, length]."""
    steps = torch.arange(length, device=decay.device, dtype=torch.float32)
    powers = torch.exp(torch.complex(decay, angle).unsqueeze(-1) * steps)  # [N, L]
    return torch.einsum("hn,nl->hl", torch.view_as_complex(weights), powers).real


def dss_kernel(decay: Tensor, angle: Tensor, weights: Tensor, length: int) -> Tensor:
    """The same, but each channel has its own poles: [H, N], [H, N] and [H, N, 2] to [H, length]."""
    steps = torch.arange(length, device=decay.device, dtype=torch.float32)
    powers = torch.exp(torch.complex(decay, angle).unsqueeze(-1) * steps)  # [H, N, L]
    return torch.einsum("hn,hnl->hl", torch.view_as_complex(weights), powers).real


def layer(u: Tensor, kernel: Tensor, skip: Tensor, projection: Tensor, bias: Tensor) -> Tensor:
    """Convolution, D skip, GELU and output projection: u [B, H, L] to [B, H, L]."""
    n = u.shape[-1] + kernel.shape[-1]
    product = torch.einsum("bhf,hf->bhf", torch.fft.rfft(u, n=n), torch.fft.rfft(kernel, n=n))
    y = torch.fft.irfft(product, n=n)[..., : u.shape[-1]] + torch.einsum("bhl,h->bhl", u, skip)
    return torch.einsum("bhl,oh->bol", functional.gelu(y), projection) + bias.unsqueeze(-1)


def step(state: Tensor, poles: Tensor, weights: Tensor, skip: Tensor, u: Tensor) -> tuple[Tensor, Tensor]:
    """One step of the recurrence in complex64: state [B, H, N], u [B, H] to y [B, H] and the next state."""
    state = poles * state + u.unsqueeze(-1)
    return (weights * state).sum(-1).real + skip * u, state
