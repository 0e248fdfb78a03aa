"""Measure everything that matters on an accelerator, in one process and under eight minutes.

    python benchmarks/device.py                                   # the accelerator, into benchmarks/results/device.json
    python benchmarks/device.py --device cpu --quick --results F  # small sizes, to see that it runs

Parts: tests on the device; its rates of products, transforms and copies; layers and whole training steps beside peers;
decoding; a million steps; the Triton kernels beside the default ones. Each row is saved when it is done, an error
included, and a part ends when its time is over. ``mamba_ssm`` is a peer where it is installed.
"""

import argparse
import importlib.util
import math
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import nullcontext
from pathlib import Path
from typing import Any, NamedTuple

import naive
import peers
import pytest
import torch
from measure import (
    BOTH,
    FORWARD,
    MODES,
    RESULTS,
    best_rate,
    build_mixer,
    machine,
    milliseconds,
    paired_ratio,
    save,
    seconds_of_pass,
    take_turns,
)
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from modeling_dlr import DLRConfig, DLRForCausalLM, DLRKernel

TESTS = Path(__file__).resolve().parent.parent / "tests"
# Files whose tests run on the device.
TESTED = ("test_ops", "test_kernels", "test_forms", "test_blocks", "test_attention", "test_padding", "test_modeling")
Found = dict[str, Any]
Rows = Iterator[tuple[str, Callable[[], Found]]]


class Bench(NamedTuple):
    """What is measured, and where.

    Attributes:
        device: on which everything runs.
        quick: whether sizes are small.
        rates: of the device, by name, once they are measured.
    """

    device: torch.device
    quick: bool
    rates: dict[str, float]

    def pick(self, usual: Any, quick: Any) -> Any:
        """One of two sizes."""
        return quick if self.quick else usual

    def wait(self) -> None:
        """Wait until the device has done all its work."""
        torch.get_device_module(self.device).synchronize()

    def seconds(self, run: Callable[[], object]) -> float:
        """Measure one run, with all that it launches."""
        self.wait()
        started = time.perf_counter()
        run()
        self.wait()
        return time.perf_counter() - started

    def compare(self, runs: Mapping[str, Callable[[], object]]) -> Found:
        """Milliseconds and peak megabytes of each, in turns, and how many times as long as "ours" the others take.

        Another one that fails, for want of memory or of a program for this device, has its error in place of a time.
        """
        found: Found = {}
        working = {}
        for name, run in runs.items():
            try:
                run()
                found |= self.peak(name, run)
                working[name] = lambda run=run: self.seconds(run)
            except Exception as error:
                if name == "ours":
                    raise
                found[f"{name}_error"] = one_line(error)
        seconds = take_turns(working)
        found |= {f"{name}_ms": milliseconds(each) for name, each in seconds.items()}
        return found | {
            f"{name}/ours": paired_ratio(seconds[name], seconds["ours"]) for name in working if name != "ours"
        }

    def peak(self, name: str, run: Callable[[], object]) -> Found:
        """The megabytes that a run adds to what is allocated, on CUDA."""
        if self.device.type != "cuda":
            return {}
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        run()
        return {f"{name}_peak_mb": round((torch.cuda.max_memory_allocated() - before) / 2**20)}


def one_line(error: Exception) -> str:
    """The class of an error, and the beginning of what it says."""
    return f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"


class Budget:
    """A plugin of pytest that counts results and ends the session when the time is over."""

    def __init__(self, seconds: float) -> None:
        self.end = time.perf_counter() + seconds
        self.counts: dict[str, int] = {"passed": 0, "failed": 0, "skipped": 0}
        self.failed: list[str] = []

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Count."""
        if report.when == "call" or report.outcome != "passed":
            self.counts[report.outcome] += 1
        if report.failed:
            self.failed.append(report.nodeid)

    def pytest_runtest_logfinish(self) -> None:
        """End the session, which pytest reports by this exception."""
        if time.perf_counter() > self.end:
            raise pytest.exit.Exception("the time of the tests is over", returncode=0)


def tests(bench: Bench) -> Rows:
    """The tests that take the fixture ``device``, which is the accelerator where there is one."""

    def run() -> Found:
        budget = Budget(bench.pick(90.0, 5.0))
        files = [str(TESTS / f"{name}.py") for name in bench.pick(TESTED, TESTED[:1])]
        # Some packages that pytest would rewrite are imported here already.
        options = ["-q", "--no-header", "-p", "no:cacheprovider", "-W", "ignore:Module already imported"]
        pytest.main([*options, "-m", "not slow", *files], plugins=[budget])
        return {**budget.counts, "failures": budget.failed}

    yield "with the device fixture", run


def limits(bench: Bench) -> Rows:
    """Rates of large products, transforms and copies in float32."""
    size, n = bench.pick((8192, 2**17), (256, 2**10))
    x = torch.randn(size, size, device=bench.device)
    signals = torch.randn(max(1, size * size // n), n, device=bench.device)
    work: dict[str, tuple[float, Callable[[], object]]] = {
        "product": (2 * size**3, lambda: x @ x),
        "transform": (len(signals) * 2.5 * n * math.log2(n), lambda: torch.fft.rfft(signals)),
        "copy": (8 * x.numel(), x.clone),
    }
    for name, (amount, run) in work.items():

        def rate(name: str = name, amount: float = amount, run: Callable[[], object] = run) -> Found:
            bench.rates[name] = best_rate(amount, lambda: (run(), bench.wait()))
            return {"flops or bytes per second": bench.rates[name]}

        yield name, rate


def flash(layer: nn.Module, device: torch.device) -> Callable[[Tensor], Tensor]:
    """Attention in bfloat16 by the flash algorithm on CUDA, and as torch chooses elsewhere."""
    if device.type != "cuda":
        return layer

    def run(x: Tensor) -> Tensor:
        with torch.autocast("cuda", torch.bfloat16), sdpa_kernel(SDPBackend.FLASH_ATTENTION):
            return layer(x)

    return run


def peers_of(H: int, device: torch.device) -> dict[str, nn.Module]:
    """Attention, the LSTM and, where it is installed, Mamba; each [B, L, H] to [B, L, H]."""
    found: dict[str, nn.Module] = {"attention": peers.Attention(H), "lstm": peers.LSTM(H, H, batch_first=True)}
    if device.type == "cuda" and importlib.util.find_spec("mamba_ssm"):
        mamba: Any = importlib.import_module("mamba_ssm")
        found["mamba2"] = mamba.Mamba2(d_model=H, headdim=32)
    return {name: layer.to(device) for name, layer in found.items()}


def official(mixer: Any) -> Callable[[Tensor], Tensor]:
    """The plain formulation with the parameters of a mixer: it stores the powers of all poles at all steps."""
    kernel, project = mixer.kernel, mixer.out_proj
    plain = naive.dss_kernel if kernel.kernel_type == "dss" else naive.dlr_kernel

    def run(u: Tensor) -> Tensor:
        modes = kernel.modes(1)
        W = torch.stack([modes.weights_real[0], modes.weights_imag[0]], dim=-1)
        K = plain(modes.decay.float(), modes.angle.float(), W, u.shape[1])
        return naive.layer(u.mT, K, mixer.D[0], project.weight, project.bias).mT

    return run


def fractions_of_limits(bench: Bench, B: int, H: int, N: int, L: int, mode: str, seconds: float) -> Found:
    """The shares of a layer's time that its products, transforms and least memory traffic take at the best rates."""
    passes, n = (1, 2 * L) if mode == FORWARD else (3, 2 * L)
    transforms = (2 * B + 1) * H if mode == FORWARD else (5 * B + 3) * H
    amounts = {
        "product": passes * (4 * H * N * L + 2 * B * L * H * H),
        "transform": transforms * 2.5 * n * math.log2(n),
        "copy": passes * 4 * 2 * B * L * H,
    }
    return {f"fraction_{name}": amounts[name] / rate / seconds for name, rate in bench.rates.items()}


def layers(bench: Bench) -> Rows:
    """One layer beside the plain formulation, attention and the LSTM, and its share of the device's limits."""
    usual = [("dlr", 4, 128, 1024, 4096), ("dlr", 16, 128, 1024, 4096), ("dlr", 4, 128, 1024, 16384)]
    usual += [("dss", 8, 256, 64, 16384), ("dlr", 1, 128, 1024, 65536)]
    for kind, B, H, N, L in bench.pick(usual, [("dlr", 2, 16, 8, 100), ("dss", 2, 16, 4, 99)]):
        for mode in MODES:

            def run(size: tuple[str, int, int, int, int] = (kind, B, H, N, L), mode: str = mode) -> Found:
                torch.manual_seed(0)
                kind, B, H, N, L = size
                mixer = build_mixer(H, N, kernel_type=kind).to(bench.device)
                beside = peers_of(H, bench.device)
                ways: dict[str, tuple[Callable[[Tensor], Tensor], nn.Module]] = {"ours": (mixer, mixer)}
                ways["official"] = (official(mixer), mixer)
                ways |= {name: (layer, layer) for name, layer in beside.items()}
                ways["flash"] = (flash(beside["attention"], bench.device), beside["attention"])
                u = torch.randn(B, L, H, device=bench.device, requires_grad=mode == BOTH)

                def turn(call: Callable[[Tensor], Tensor], layer: nn.Module) -> Callable[[], object]:
                    return lambda: seconds_of_pass(lambda: call(u), [u, *layer.parameters()], mode)

                found = bench.compare({name: turn(*way) for name, way in ways.items()})
                return found | fractions_of_limits(bench, B, H, N, L, mode, found["ours_ms"] / 1e3)

            yield f"{kind} B={B} H={H} N={N} L={L} {mode}", run


class Classifier(nn.Module):
    """Tokens to ten classes: four layers of one kind, each with norm and residual, and the mean over steps."""

    def __init__(self, build: Callable[[], nn.Module], H: int):
        super().__init__()
        self.embedding, self.head = nn.Embedding(256, H), nn.Linear(H, 10)
        self.mixers = nn.ModuleList([build() for _ in range(4)])
        self.norms = nn.ModuleList([nn.LayerNorm(H) for _ in range(4)])

    def forward(self, ids: Tensor) -> Tensor:
        """[B, L] to logits [B, 10]."""
        x = self.embedding(ids)
        for norm, mixer in zip(self.norms, self.mixers, strict=True):
            x = x + mixer(norm(x))
        return self.head(x.mean(1))


class TrainingStep:
    """Loss, gradients and AdamW of a classifier; the optimizer can be captured on CUDA."""

    def __init__(self, bench: Bench, build: Callable[[], nn.Module], H: int, B: int, L: int, context: Any = None):
        self.model, self.context = Classifier(build, H).to(bench.device), context or nullcontext
        self.ids, self.labels = (torch.zeros(*size, dtype=torch.long, device=bench.device) for size in ((B, L), (B,)))
        self.optimizer = torch.optim.AdamW(self.model.parameters(), capturable=bench.device.type == "cuda")
        self.graph: torch.cuda.CUDAGraph | None = None

    def __call__(self) -> None:
        """One step."""
        with self.context():
            loss = nn.functional.cross_entropy(self.model(self.ids), self.labels)
        loss.backward()
        self.optimizer.step()
        self.optimizer.zero_grad()

    def replay(self) -> None:
        """The same step as a CUDA graph, captured in the first call after three steps without it."""
        if self.graph is None:
            side = torch.cuda.Stream()
            side.wait_stream(torch.cuda.current_stream())
            with torch.cuda.stream(side):
                for _ in range(3):
                    self()
            torch.cuda.current_stream().wait_stream(side)
            self.graph = torch.cuda.CUDAGraph()
            with torch.cuda.graph(self.graph):
                self()
        self.graph.replay()


def flash_attention() -> Any:
    """Autocast to bfloat16, in which torch chooses flash attention."""
    return torch.autocast("cuda", torch.bfloat16)


def steps(bench: Bench) -> Rows:
    """A whole training step of a four-layer classifier; with DLR also as a CUDA graph."""
    H = bench.pick(128, 16)
    for B, L in bench.pick([(8, 1024), (4, 4096), (1, 16384)], [(2, 50)]):

        def run(B: int = B, L: int = L) -> Found:
            torch.manual_seed(0)
            poles = bench.pick({"ours": 256, "dlr1024": 1024}, {"ours": 8})
            runs: dict[str, Callable[[], object]] = {
                name: TrainingStep(bench, lambda N=N: build_mixer(H, N), H, B, L) for name, N in poles.items()
            }
            runs["dss"] = TrainingStep(bench, lambda: build_mixer(H, bench.pick(64, 4), kernel_type="dss"), H, B, L)
            for name in peers_of(H, bench.device):
                runs[name] = TrainingStep(bench, lambda name=name: peers_of(H, bench.device)[name], H, B, L)
            if bench.device.type == "cuda":
                runs["flash"] = TrainingStep(bench, lambda: peers.Attention(H), H, B, L, flash_attention)
                runs["captured"] = TrainingStep(bench, lambda: build_mixer(H, 256), H, B, L).replay
            return bench.compare(runs)

        yield f"B={B} L={L}", run


def decoding(bench: Bench) -> Rows:
    """Milliseconds of a token after a prompt: the mean, and the slowest token of a block."""
    for B in (1, 16):

        @torch.no_grad()
        def run(B: int = B) -> Found:
            H, N, layers = bench.pick((512, 256, 8), (16, 8, 2))
            config = DLRConfig(vocab_size=256, hidden_size=H, num_hidden_layers=layers, state_size=N)
            # pyrefly: ignore[bad-argument-type] - transformers wraps `to`
            model = DLRForCausalLM(config).to(bench.device).eval()
            ids = torch.zeros(B, 64, dtype=torch.long, device=bench.device)
            cache = model(ids, use_cache=True).cache
            for _ in range(3):
                model(ids[:, :1], cache=cache)
            tokens = bench.pick(512, 32)
            every = [bench.seconds(lambda: model(ids[:, :1], cache=cache)) for _ in range(tokens)]
            together = bench.seconds(lambda: [model(ids[:, :1], cache=cache) for _ in range(tokens)])
            return {"mean_ms": 1e3 * together / tokens, "median_ms": milliseconds(every), "worst_ms": 1e3 * max(every)}

        yield f"B={B}", run


def million(bench: Bench) -> Rows:
    """A layer at a million steps, which attention and the plain formulation cannot hold."""
    for mode in MODES:

        def run(mode: str = mode) -> Found:
            H, N, L = bench.pick((32, 4096, 2**20), (4, 8, 2**12))
            mixer = build_mixer(H, N).to(bench.device)
            u = torch.randn(1, L, H, device=bench.device, requires_grad=mode == BOTH)
            found = bench.compare({"ours": lambda: seconds_of_pass(lambda: mixer(u), [u, *mixer.parameters()], mode)})
            return found | fractions_of_limits(bench, 1, H, N, L, mode, found["ours_ms"] / 1e3)

        yield mode, run


def triton(bench: Bench) -> Rows:
    """The kernel and its gradients by Triton and by default, and the errors of Triton's from float64."""
    if bench.device.type != "cuda":
        return
    from modeling_dlr.triton_kernels import use_triton

    for kind, N in (("dlr", 1024), ("dss", 64)):
        for L in bench.pick((4096, 65536), (100,)):

            def run(kind: str = kind, N: int = N, L: int = L) -> Found:
                torch.manual_seed(0)
                kernel = build_mixer(128, N, kernel_type=kind).kernel.to(bench.device)
                leaves = list(kernel.parameters())

                def by_triton(mode: str) -> object:
                    with use_triton(bench.device.type):
                        return seconds_of_pass(lambda: kernel(L), leaves, mode)

                found: Found = {}
                for mode in MODES:
                    ours = lambda mode=mode: seconds_of_pass(lambda: kernel(L), leaves, mode)  # noqa: E731
                    times = bench.compare({"ours": ours, "triton": lambda mode=mode: by_triton(mode)})
                    found |= {f"{mode} {name}": value for name, value in times.items()}
                return found | errors_of_triton(kernel, L, use_triton)

            yield f"{kind} N={N} L={L}", run


def errors_of_triton(kernel: DLRKernel, L: int, use_triton: Callable[..., Any]) -> Found:
    """The largest relative errors of the kernel and of its gradients from float64."""
    g = torch.randn(1, 128, L, device=next(kernel.parameters()).device)

    def outcome() -> list[Tensor]:
        leaves, K = list(kernel.parameters()), kernel(L)
        return [K.detach(), *torch.autograd.grad(K, leaves, g.to(K))]

    with use_triton(g.device.type):
        ours = outcome()
    kernel.double()
    exact = outcome()
    errors = [float((a - b).abs().max() / b.abs().max()) for a, b in zip(ours, exact, strict=True)]
    return {"kernel_error": errors[0], "gradient_error": max(errors[1:])}


# Parts and the seconds that each may take to begin a row.
PARTS: dict[Callable[[Bench], Rows], float] = {
    tests: 100,
    limits: 10,
    layers: 100,
    steps: 80,
    decoding: 30,
    million: 30,
    triton: 50,
}


def main() -> None:
    """Measure every part, and save each row when it is done."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    usual = "cuda" if torch.cuda.is_available() else "cpu"
    parser.add_argument("--device", type=torch.device, default=torch.device(usual), help=f"default: {usual}")
    parser.add_argument("--quick", action="store_true", help="small sizes, to see that everything runs")
    parser.add_argument("--results", type=Path, default=RESULTS / "device.json", help="default: %(default)s")
    options = parser.parse_args()
    bench = Bench(options.device, options.quick, {})
    name = torch.cuda.get_device_name(bench.device) if bench.device.type == "cuda" else "CPU"
    for part, seconds in PARTS.items():
        end = time.perf_counter() + seconds
        for case, run in part(bench):
            if time.perf_counter() > end:
                found: Found = {"error": f"the {seconds} seconds of this part are over"}
            else:
                try:
                    found = run()
                except Exception as error:  # one row that fails must not end the others
                    found = {"error": one_line(error)}
            line = {"part": part.__name__, "case": case, "device": name, "quick": bench.quick} | found | machine()
            save(options.results, line, key=("part", "case", "device", "quick"))
            print(line, flush=True)


if __name__ == "__main__":
    main()
