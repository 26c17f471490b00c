"""Command line of `restoration`: parse, call, print. Loads torch only when a command runs."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from curate.core import console
from curate.core.config import build, read_toml

if TYPE_CHECKING:
    from .scoreboard import EvaluateResult
    from .train import TrainResult

app = typer.Typer(
    add_completion=False,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    help="Train, evaluate and use restoration networks.",
)


@app.command()
def train(
    data: Annotated[Path, typer.Argument(metavar="DATA", help="CORPUS or SUBSET folder.")],
    out: Annotated[Path, typer.Argument(metavar="OUT", help="RUN folder; the same command resumes.")],
    model: Annotated[
        str | None, typer.Option(help="dynet-s (default), dynet-l, dynet-tiny, nafnet-small, ...; not ipt.")
    ] = None,
    recipe: Annotated[str | None, typer.Option(help="scratch or curriculum (default on a two-stage SUBSET).")] = None,
    steps: Annotated[
        int | None, typer.Option(help="Optimiser steps; default 20000, or what fits into --hours.")
    ] = None,
    hours: Annotated[float | None, typer.Option(help="Wall-clock limit.")] = None,
    val: Annotated[Path | None, typer.Option(help="Folder of validation pictures; else a few are held out.")] = None,
    device: Annotated[str | None, typer.Option(help="auto (default), cpu, cuda, ...")] = None,
    seed: Annotated[int | None, typer.Option(help="Root of every random draw; default 0.")] = None,
    config: Annotated[
        Path | None, typer.Option(metavar="FILE.toml", help="Every other setting of TrainConfig.")
    ] = None,
) -> None:
    """Train a network from the patches of DATA."""
    from .train import TrainConfig, fit

    flags = {
        "model": model, "recipe": recipe, "steps": steps, "hours": hours, "val": val, "device": device, "seed": seed,
    }  # fmt: skip
    values: dict[str, Any] = read_toml(config) if config else {}
    values |= {name: value for name, value in flags.items() if value is not None}
    if "hours" in values:
        values.setdefault("steps", 0)
    result = fit(build(TrainConfig, {**values, "data": data, "out": out}, where=str(config or "train")))
    _print_training(result)


@app.command()
def evaluate(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="Folder of a training run.")],
    bench: Annotated[Path, typer.Argument(metavar="BENCH", help="Folder of pictures, or of input/ and target/.")],
    task: Annotated[
        str,
        typer.Option(help="noise15|25|50, jpeg10|20|30|40, sr2|sr3|sr4; rain, haze, lowlight on pairs, srN on either."),
    ],
    protocol: Annotated[
        str,
        typer.Option(
            help="promptir (RGB, unrounded), restormer (RGB, 8 bits, unclipped noise), ychannel (Y, 8 bits, border cut)."
        ),
    ] = "promptir",
    depth: Annotated[
        list[str] | None,
        typer.Option(help="s, l or counts such as 4,6,6,8; default: as trained. Give it twice to compare two."),
    ] = None,
    head: Annotated[str, typer.Option(help="Of a network with several; default: the task's, or the only one.")] = "",
    checkpoint: Annotated[str, typer.Option(help="last, or best (by validation).")] = "last",
    metrics: Annotated[str, typer.Option(help="More metrics, with commas: lpips, niqe, brisque.")] = "",
    device: Annotated[str, typer.Option(help="auto, cpu, cuda, ...")] = "auto",
) -> None:
    """Measure PSNR and SSIM before and after restoration, under a named protocol, and show the worst pictures."""
    from .evaluation import EvaluateConfig
    from .evaluation import evaluate as measure

    extras = tuple(name.strip() for name in metrics.split(",") if name.strip())
    configs = [
        EvaluateConfig(
            run=run, bench=bench, task=task, protocol=protocol, checkpoint=checkpoint, depth=chosen, head=head,
            device=device, metrics=extras,
        )
        for chosen in dict.fromkeys(depth or [""])
    ]  # fmt: skip
    _print_evaluation([measure(config) for config in configs])


@app.command()
def restore(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="Folder of a training run.")],
    source: Annotated[Path, typer.Argument(metavar="IN", help="A picture, a folder of pictures, a CORPUS or SUBSET.")],
    out: Annotated[Path, typer.Argument(metavar="OUT", help="A file, or a folder; the same command resumes.")],
    task: Annotated[str, typer.Option(help="Which head, such as sr2, for networks with several.")] = "",
    depth: Annotated[str, typer.Option(help="s, l or counts such as 4,6,6,8; default: as trained.")] = "",
    self_ensemble: Annotated[bool, typer.Option("--self-ensemble", help="Average 8 flips and turns: 8 x the time.")] = False,
    max_memory: Annotated[str, typer.Option(help="2GB, 800MB, ...: of this process (or the GPU); default 4GB.")] = "",
    format_name: Annotated[str, typer.Option("--format", help="png, tiff, webp, jpeg; default: see docs/restore.md.")] = "",
    checkpoint: Annotated[str, typer.Option(help="last or best (by validation).")] = "last",
    device: Annotated[str, typer.Option(help="auto, cpu, cuda, ...")] = "auto",
) -> None:  # fmt: skip
    """Restore pictures of any size: files, folders, or the patches of a dataset."""
    from .inference import RestoreConfig
    from .inference import restore as run_restore

    result = run_restore(
        RestoreConfig(
            run=run, source=source, out=out, task=task, depth=depth, self_ensemble=self_ensemble, max_memory=max_memory,
            format=format_name, checkpoint=checkpoint, device=device,
        )
    )  # fmt: skip
    for path in result.written:
        console.say(str(path))
    if result.num_skipped:
        console.note(f"{result.num_skipped} of {len(result.written)} were made by an earlier run")
    for name, reason in result.failed:
        console.note(f"skipped {name}: {reason}")
    if result.failed:
        console.fail(
            f"{len(result.failed)} of {len(result.failed) + len(result.written)} pictures could not be restored"
        )


@app.command()
def export(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="Folder of a training run.")],
    out: Annotated[Path, typer.Argument(metavar="OUT", help="Folder for the model files and their card.")],
    format_name: Annotated[str, typer.Option("--format", help="onnx, safetensors or both.")] = "both",
    task: Annotated[str, typer.Option(help="Which head the ONNX file uses, for networks with several.")] = "",
    depth: Annotated[str, typer.Option(help="Depth of the ONNX file; default: as trained.")] = "",
    checkpoint: Annotated[str, typer.Option(help="last or best (by validation).")] = "last",
    licence: Annotated[str, typer.Option(help="Licence of the weights, for the card, such as CC-BY-4.0.")] = "",
) -> None:
    """Write a network for other programs: ONNX (checked), safetensors, and a model card."""
    from .exporting import ExportConfig
    from .exporting import export as run_export

    result = run_export(
        ExportConfig(
            run=run, out=out, format=format_name, task=task, depth=depth, checkpoint=checkpoint, licence=licence
        )
    )
    for check in result.checks:
        console.say(f"{check.shape}: ONNX Runtime differs from PyTorch by at most {check.max_difference:.1e}")
    for path in result.files:
        console.say(str(path))


@app.command()
def serve(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="Folder of a training run.")],
    port: Annotated[int, typer.Option(help="0 takes a free one.")] = 8000,
    host: Annotated[
        str, typer.Option(help="Address to listen on; anything but loopback lets others in.")
    ] = "127.0.0.1",
    max_memory: Annotated[str, typer.Option(help="As for restore.")] = "",
    checkpoint: Annotated[str, typer.Option(help="last or best (by validation).")] = "last",
    device: Annotated[str, typer.Option(help="auto, cpu, cuda, ...")] = "auto",
) -> None:
    """Restore pictures in a browser on this machine, before and after side by side."""
    from .server import ServeConfig
    from .server import serve as run_serve

    run_serve(ServeConfig(run=run, port=port, host=host, max_memory=max_memory, checkpoint=checkpoint, device=device))


@app.command()
def preview(
    data: Annotated[Path, typer.Argument(metavar="DATA", help="Folder of pictures, or a CORPUS or SUBSET folder.")],
    out: Annotated[Path, typer.Argument(metavar="OUT", help="PNG file or folder; a JSON is written beside it.")],
    degradations: Annotated[str, typer.Option(help="all, or task names with commas: noise25,rain,jpeg10-40.")] = "all",
    seed: Annotated[int, typer.Option(help="Root of every random draw.")] = 0,
) -> None:
    """Show what each degradation does to a few crops of DATA, on one labelled sheet."""
    from .preview import PreviewConfig, make_preview

    result = make_preview(PreviewConfig(data=data, out=out, degradations=degradations, seed=seed))
    for task, value in result.mean_psnr_db.items():
        console.say(f"{task:20}{value:8.2f} dB")
    console.say(f"sheet: {result.sheet}")
    console.say(f"drawn: {result.record}")


@app.command()
def import_checkpoint(
    file: Annotated[
        Path, typer.Argument(metavar="FILE", help=".safetensors, .pt, .pth or .ckpt; no code of it is run.")
    ],
    out: Annotated[Path, typer.Argument(metavar="OUT", help="RUN folder, new or empty.")],
    model: Annotated[str, typer.Option(help="dynet-s, promptir, restormer, ipt, nafnet-small, ...")],
    config: Annotated[
        Path | None,
        typer.Option(metavar="FILE.toml", help="Fields of the network's Config that differ from the model's."),
    ] = None,
) -> None:
    """Make a RUN of weights under their published names."""
    from .imports import ImportConfig
    from .imports import import_checkpoint as run_import

    network = read_toml(config) if config else {}
    result = run_import(ImportConfig(file=file, out=out, model=model, network=network))
    unused = f" ({result.num_unused:,} values of the file have no use here)" if result.num_unused else ""
    console.say(f"{result.model}, {result.num_parameters:,} parameters{unused}")
    console.say(f"weights: {result.weights}")


def _print_training(result: TrainResult) -> None:
    seconds = console.human_seconds(result.seconds["train"] + result.seconds["validate_and_save"])
    what = (
        f"{result.model}, {result.num_parameters:,} parameters: {result.steps} of {result.num_steps} steps in {seconds}"
    )
    console.say(f"{result.status}: {what}, loss {result.loss:.4f}")
    for task, value in result.val_psnr_db.items():
        console.say(f"  validation {task}: {value:.2f} dB")
    console.say(f"weights: {result.weights}")


def _print_evaluation(results: list[EvaluateResult]) -> None:
    from .scoreboard import format_table

    console.say(format_table(results))
    for result in results:
        console.say(f"written: {result.file} (.md, .parquet), {result.sheet}")


def main() -> None:
    """Run `restoration`."""
    console.run(app, ("restoration", "curate"))
