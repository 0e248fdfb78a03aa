"""`modeling-dlr plan`: how much memory a model takes, and how it divides among processes."""

from typing import Annotated, Literal

import typer

from modeling_dlr import DLRConfig
from modeling_dlr.markdown import markdown_table
from modeling_dlr.memory import Device, Head, Pass, activations
from modeling_dlr.plans import Plan, find_config, fitting, plans, usual_head

from .options import one_line_errors

Kind = Literal["float32", "bfloat16", "float16", "float64"]


@one_line_errors
def plan(
    config: Annotated[str, typer.Argument(help="A named model, such as dlr-small, a folder, or a config.json.")],
    length: Annotated[int, typer.Option(min=1, help="Steps of a sequence.")],
    batch: Annotated[int, typer.Option(min=1, help="Sequences of a training step, on all devices together.")] = 1,
    devices: Annotated[int, typer.Option(min=1, help="GPUs, or processes.")] = 1,
    memory: Annotated[float | None, typer.Option(min=0, help="Of one device, in GB: what fits is said.")] = None,
    dtype: Annotated[Kind, typer.Option(help="Of weights and activations; kernels are at least float32.")] = "float32",
    head: Annotated[
        Head | None, typer.Option(help="Logits: of the vocabulary, of labels at each step, or once.")
    ] = None,
    device: Annotated[Device, typer.Option(help="On GPUs, Fourier transforms take more memory at a time.")] = "cpu",
) -> None:
    """Say how much memory training and inference take: parameters, gradients, AdamW and activations.

    Figures are for one process, in MB. The rows are the ways to divide the work; "again" is gradient checkpointing.
    """
    found = find_config(config)
    work = Pass(batch, length, dtype=dtype, head=head or usual_head(found), device=device)
    training = plans(found, work, devices)
    inference = plans(found, Pass(**(vars(work) | {"training": False})), devices)
    typer.echo(_parts(config, found, work))
    typer.echo(f"\nTraining, {batch} × {length:,} steps on {devices} {'process' if devices == 1 else 'processes'}:\n")
    typer.echo(_table(training))
    typer.echo("\nInference:\n")
    typer.echo(_table(inference))
    typer.echo(f"\n{_advice(training, memory)}")


def _parts(name: str, config: DLRConfig, work: Pass) -> str:
    found = activations(config, work)
    return (
        f"{name}: {config.num_hidden_layers} layers of {config.hidden_size} channels.\n"
        f"A layer keeps {found.per_step:,.0f} bytes for each step, {_mb(found.layer)} MB in all, and a kernel of "
        f"{_mb(found.kernel)} MB; the loss takes {_mb(found.head)} MB. With checkpointing, a layer keeps "
        f"{config.hidden_size * work.size:,} bytes for each step."
    )


def _table(found: list[Plan]) -> str:
    header = ["divided by", "again", "parameters", "gradients", "AdamW", "gathered", "activations", "all", "most in"]
    return markdown_table(header, [_cells(plan) for plan in found])


def _cells(plan: Plan) -> list[str]:
    numbers = (plan.parameters, plan.gradients, plan.optimizer, plan.gathered, plan.activations, plan.total)
    return [plan.way, "yes" if plan.work.checkpointing else "no", *map(_mb, numbers), plan.moment]


def _advice(found: list[Plan], memory: float | None) -> str:
    if memory is None:
        return "With --memory GB, the first of these ways that fits a device is named."
    first = fitting(found, memory * 1e9)
    if first is None:
        least = min(found, key=lambda plan: plan.total)
        need = f"the least is {least.total / 1e9:.3g} GB"
        return f"Nothing fits {memory:g} GB, {need}: take more devices, or fewer sequences at once."
    again = ", with gradient checkpointing" if first.work.checkpointing else ""
    return f"The first that fits {memory:g} GB: {first.way}{again} ({first.total / 1e9:.3g} GB)."


def _mb(size: float) -> str:
    return f"{size / 1e6:,.3g}" if size < 1e8 else f"{size / 1e6:,.0f}"
