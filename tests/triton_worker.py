"""Run the Triton programs on the CPU, or compile them for devices that are not here: run by test_triton.py.

    TRITON_INTERPRET=1 python triton_worker.py values G,R,N,L …    # prints the relative errors of each size
    python triton_worker.py compile                                # prints the assembly of each program

Triton reads the variable when it is imported, so that both need a process of their own.
"""

import json
import sys
from typing import Any

import oracle
import torch
import triton
from torch import Tensor
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from modeling_dlr import triton_kernels
from modeling_dlr.triton_kernels import use_triton
from modeling_dlr.vandermonde_dlr import vandermonde_adjoint, vandermonde_product

TARGETS = [GPUTarget("cuda", 90, 32), GPUTarget("hip", "gfx942", 64)]


def outcomes(poles: list[Tensor], W: list[Tensor], g: Tensor) -> list[Tensor]:
    """Product and adjoint, and the derivatives of a sum of both."""
    leaves = decay, angle, real, imag = [part.clone().requires_grad_() for part in (*poles, *W)]
    K, adjoint = vandermonde_product(decay, angle, real, imag, g.shape[-1]), vandermonde_adjoint(decay, angle, g)
    d_product = torch.autograd.grad((K * g).sum(), leaves)
    d_adjoint = torch.autograd.grad(adjoint[0].square().sum() + adjoint[1].sum(), [decay, angle])
    return [K.detach(), *(part.detach() for part in adjoint), *d_product, *d_adjoint]


def errors(G: int, R: int, N: int, L: int) -> dict[str, float]:
    """Relative errors of what Triton computes in float32, from the definition in float64."""
    torch.manual_seed(0)
    poles = [-0.01 * torch.rand(G, N, dtype=torch.float64), 6 * torch.rand(G, N, dtype=torch.float64)]
    W, g = [torch.randn(G, R, N), torch.randn(G, R, N)], torch.randn(G, R, L)
    with use_triton("cpu"):
        ours = outcomes(poles, W, g)
    exact = outcomes(poles, [part.double() for part in W], g.double())
    # The groups are the channels of the oracle, and the rows its kernels.
    log_poles = torch.complex(*poles).numpy()
    weights = torch.complex(*(part.double().transpose(0, 1) for part in W)).numpy()
    exact[0] = torch.from_numpy(oracle.kernel(log_poles, weights, L)).transpose(0, 1)
    derivatives = oracle.kernel_gradients(log_poles, weights, g.double().transpose(0, 1).numpy())
    d_decay, d_angle, d_real, d_imag = map(torch.from_numpy, derivatives)
    exact[3:7] = d_decay, d_angle, d_real.transpose(0, 1), d_imag.transpose(0, 1)
    exact[1:3] = exact[5], -exact[6]
    names = [
        "product",
        "adjoint real",
        "adjoint imag",
        "d decay",
        "d angle",
        "d real",
        "d imag",
        "d2 decay",
        "d2 angle",
    ]
    return {name: relative_error(*pair) for name, *pair in zip(names, ours, exact, strict=True)}


def relative_error(ours: Tensor, exact: Tensor) -> float:
    error = float((ours.double() - exact).abs().max())
    return error / float(exact.abs().max()) if error else 0.0


def assembly(target: GPUTarget, ones: bool) -> list[str]:
    """Of both programs: for large sizes, or for sizes of 1, which Triton treats as constants."""
    found = []
    for name, pointers in {"_product": ["real", "imag"], "_moments": ["g"]}.items():
        constants: dict[str, Any] = {"ROWS": 64, "POLES": 32, "STEPS": 64}
        constants |= {"COUNT": 2, "PART": 4096} if name == "_moments" else {}
        sizes = dict.fromkeys("RNL", "i32")
        if ones:
            constants |= dict.fromkeys("RNL", 1)
        signature = {"decay": "*fp32", "angle": "*i64", **dict.fromkeys([*pointers, "result"], "*fp32"), **sizes}
        signature |= dict.fromkeys(constants, "constexpr")
        compiled = triton.compile(ASTSource(getattr(triton_kernels, name), signature, constants), target=target)
        found.append(compiled.asm["ptx" if target.backend == "cuda" else "amdgcn"])
    return found


def hides_nan() -> bool:
    """Whether an angle that is NaN gives a finite kernel."""
    poles = torch.full((1, 2), -0.1), torch.tensor([[torch.nan, 1.0]])
    W = torch.ones(1, 1, 2)
    return bool(triton_kernels.product(*poles, W, W, 3).isfinite().any())


if __name__ == "__main__":
    if sys.argv[1] == "values":
        if hides_nan():
            sys.exit("an angle that is NaN gives a finite kernel")
        print(json.dumps([errors(*map(int, sizes.split(","))) for sizes in sys.argv[2:]]))
    else:
        found = [assembly(target, ones) for target in TARGETS for ones in (False, True)]
        print(json.dumps([text for each in found for text in each]))
