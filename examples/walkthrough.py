"""The model in five steps, from the recurrence to the cost of a layer: `python examples/walkthrough.py [picture.png]`.

Letters: B sequences, L steps, H channels, N poles (complex states) for each channel.
"""

import sys
import time

import numpy as np
import torch

from modeling_dlr import DLRConfig, DLRKernel, DLRModel
from modeling_dlr.ops_dlr import convolution, evaluate_kernel, scan, step

B, L, H, N = 2, 1000, 4, 16


def recurrence(decay: np.ndarray, angle: np.ndarray, W: np.ndarray, D: np.ndarray, u: np.ndarray) -> np.ndarray:
    """1. The definition, in NumPy: x_t = Λ x_{t-1} + u_t and y_t = Re(W x_t) + D u_t, for one sequence [L, H]."""
    Lambda, x, y = np.exp(decay + 1j * angle), np.zeros((H, N), complex), []
    for u_t in u:
        x = Lambda * x + u_t[:, None]
        y.append((W * x).sum(-1).real + D * u_t)
    return np.stack(y)


def main() -> None:
    """Run the five steps."""
    torch.manual_seed(0)
    kernel, D = DLRKernel(1, H, N).double(), torch.randn(1, H, dtype=torch.float64)
    with torch.no_grad():
        modes = kernel.recurrence()
        u = torch.randn(B, L, H, dtype=torch.float64)
        W = torch.complex(modes.weights_real, modes.weights_imag)[0]
        numbers = (modes.decay.numpy(), modes.angle.numpy(), W.numpy(), D[0].numpy())
        expected = torch.from_numpy(np.stack([recurrence(*numbers, sequence) for sequence in u.numpy()]))
        print(f"1. The recurrence, step by step: {list(expected.shape)} outputs.")

        # 2. Unrolled, the recurrence is a convolution with K_l = Re Σ_n W_n Λ_n^l: all steps at once, by FFT.
        y, state = convolution(modes, D, u)
        print(f"2. As a convolution, all steps at once: largest difference {(y[:, :, 0] - expected).abs().max():.0e}.")

        # 3. In chunks, each from the final state of the previous one: any length in constant memory.
        y, state_of_scan = scan(modes, D, u, chunk_length=256)
        print(f"3. As a scan over chunks of 256 steps: largest difference {(y[:, :, 0] - expected).abs().max():.0e},")
        print(f"   and {(state_of_scan.real - state.real).abs().max():.0e} between the states at the end.")

        # 4. One step at a time, from that state: this is how a model generates.
        y, following = step(modes, D, torch.zeros(B, H, dtype=torch.float64), state)
        print(f"4. One more step costs the same after any length; the state is complex {list(following.real.shape)}.")

        K = evaluate_kernel(modes, 200)[0, 0].abs()
        print("   The kernel of one channel, its largest value in each 20 steps:")
        for start in range(0, 200, 20):
            print(f"   {start:4d} {'█' * int(40 * K[start : start + 20].max() / K.max())}")
    if sys.argv[1:]:
        from modeling_dlr.figures import kernel_figure

        kernel_figure(DLRModel(DLRConfig(hidden_size=H, state_size=N))).savefig(sys.argv[1])
        print(f"   A picture of poles and kernels: {sys.argv[1]}")

    print("5. A layer of 128 channels and 256 poles, one sequence, forward and backward:")
    layer = DLRModel(DLRConfig(hidden_size=128, state_size=256, num_hidden_layers=1, bidirectional=True)).layers[0]
    for length in (1024, 4096, 16384):
        x, seconds = torch.randn(1, length, 128, requires_grad=True), []
        for _ in range(4):
            began = time.perf_counter()
            layer(x).sum().backward()
            seconds.append(time.perf_counter() - began)
        print(f"   {length:6d} steps: {1e3 * min(seconds):4.0f} ms")


if __name__ == "__main__":
    main()
