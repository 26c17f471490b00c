"""The command `distill`: parse, call, print."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from curate.core import config as configs
from curate.core import console

app = typer.Typer(add_completion=False, no_args_is_help=True, pretty_exceptions_enable=False, rich_markup_mode=None)


@app.callback()
def distill() -> None:
    """Which few per cent of a corpus teach the most?"""


@app.command()
def select(
    corpus: Annotated[Path, typer.Argument(metavar="CORPUS", help="a finished corpus, made by curate build-shards")],
    out: Annotated[
        Path, typer.Argument(metavar="OUT", help="where the subset goes; the same command on the same OUT resumes")
    ],
    budget: Annotated[
        str | None, typer.Option(help="a share (2%, 0.5%) or a number of patches (5000) [default: 2%]")
    ] = None,
    encoder: Annotated[
        str | None, typer.Option(help="what looks at the patches: vit_s14, handcrafted [default: vit_s14]")
    ] = None,
    complexity: Annotated[
        str | None, typer.Option(help="how much is going on: vit_entropy, gradient, histogram [default: vit_entropy]")
    ] = None,
    selector: Annotated[
        str | None, typer.Option(help="how to choose: strat_fl, random, top [default: strat_fl]")
    ] = None,
    seed: Annotated[int | None, typer.Option(help="root of every random draw [default: 0]")] = None,
    config: Annotated[Path | None, typer.Option(help="TOML with any field of SelectConfig; flags win")] = None,
) -> None:
    """Choose the patches that teach most: a subset in two stages."""
    from . import subset

    flags = {"budget": budget, "encoder": encoder, "complexity": complexity, "selector": selector, "seed": seed}
    values: dict[str, Any] = configs.read_toml(config) if config is not None else {}
    values |= {key: value for key, value in flags.items() if value is not None}
    values |= {"corpus": corpus, "out": out}
    settings = configs.build(subset.SelectConfig, values, where="select" if config is None else str(config))
    with _Bar() as bar:
        result = subset.select(settings, bar)
    _print(result, settings.budget)


def _print(result: Any, budget: str) -> None:
    share = 100 * result.num_selected / result.num_available
    console.say(
        f"budget    {budget} asked, {result.num_selected} of {result.num_available} patches got ({share:.2f} %)"
    )
    console.say(f"stages    {', '.join(f'{stage} {num}' for stage, num in result.stages.items())}")
    console.say(f"encoder   {result.encoder_label}")
    for stage, seconds in result.seconds.items():
        console.say(f"time      {stage} {seconds:.2f} s")
    console.say(f"subset    {result.out}" + (" (was finished already; nothing to do)" if result.already_done else ""))


class _Bar:
    """Draws the progress of encoding once its length is known."""

    def __init__(self) -> None:
        self._progress: console.Progress | None = None

    def __enter__(self) -> _Bar:
        return self

    def __exit__(self, kind: Any, error: Any, trace: Any) -> None:
        if self._progress is not None:
            self._progress.__exit__(kind, error, trace)

    def begin(self, total: int, done: int) -> None:
        """Start the bar."""
        self._progress = console.Progress("encode", total, done=done, unit="patches").__enter__()

    def step(self, num: int) -> None:
        """Move it."""
        if self._progress is not None:
            self._progress.step(num=num)


def main() -> None:
    """Run `distill`."""
    console.run(app, ("distill", "curate"))
