"""The command `distill`: parse, call, print."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import typer

from curate.core import config as configs
from curate.core import console

app = typer.Typer(add_completion=False, no_args_is_help=True, pretty_exceptions_enable=False, rich_markup_mode=None)

Corpus = Annotated[Path, typer.Argument(metavar="CORPUS", help="a finished corpus, made by curate build-shards")]
Encoder = Annotated[
    str | None,
    typer.Option(help="what looks at the patches: vit_s14, timm, open_clip, handcrafted [default: vit_s14]"),
]
Engine = Annotated[
    str | None, typer.Option(help="where patches are encoded: process, dask, tcp://HOST:PORT [default: process]")
]
Workers = Annotated[int | None, typer.Option(help="batches encoded at once [default: one per core]")]


@app.callback()
def distill() -> None:
    """Which few per cent of a corpus teach the most?"""


@app.command()
def score(
    corpus: Corpus,
    out: Annotated[
        Path, typer.Argument(metavar="OUT", help="where the scores go; the same command on the same OUT resumes")
    ],
    encoder: Encoder = None,
    complexity: Annotated[
        list[str] | None, typer.Option(help="a measure of how much is going on; repeat it [default: vit_entropy]")
    ] = None,
    engine: Engine = None,
    workers: Workers = None,
    config: Annotated[Path | None, typer.Option(help="TOML with any field of ScoreConfig; flags win")] = None,
) -> None:
    """Encode and score every patch of a corpus, once for many selections."""
    from . import scores

    flags = {"encoder": encoder, "complexity": complexity, "engine": engine, "workers": workers}
    settings = _settings(scores.ScoreConfig, flags, config, "score", {"corpus": corpus, "out": out})
    with _Bar() as bar:
        result = scores.score(settings, bar)
    for line in result.lines():
        console.say(line)


@app.command()
def select(
    corpus: Corpus,
    out: Annotated[
        Path, typer.Argument(metavar="OUT", help="where the subset goes; the same command on the same OUT resumes")
    ],
    budget: Annotated[
        str | None, typer.Option(help="a share (2%, 0.5%) or a number of patches (5000) [default: 2%]")
    ] = None,
    scores: Annotated[
        Path | None, typer.Option(metavar="DIR", help="what distill score made of this corpus; nothing is encoded then")
    ] = None,
    encoder: Encoder = None,
    complexity: Annotated[
        str | None,
        typer.Option(
            help="how much is going on: vit_entropy, authors_code, review_entropy, token_entropy_raw, gradient, "
            "histogram, psnr_bicubic, network_loss [default: vit_entropy]"
        ),
    ] = None,
    selector: Annotated[
        str | None,
        typer.Option(
            help="how to choose: strat_fl, random, top, bottom, window, herding, kcenter, fl, ccs, moderate, d2, "
            "moser_loss, psnr_bic [default: strat_fl]"
        ),
    ] = None,
    calibrate: Annotated[
        str | None, typer.Option(help="bring the chosen patches closer to the corpus: none, kmm, cnn [default: none]")
    ] = None,
    seed: Annotated[int | None, typer.Option(help="root of every random draw [default: 0]")] = None,
    engine: Engine = None,
    config: Annotated[Path | None, typer.Option(help="TOML with any field of SelectConfig; flags win")] = None,
) -> None:
    """Choose the patches that teach most: a subset in two stages."""
    from . import subset

    flags = {
        "budget": budget, "scores": scores, "encoder": encoder, "complexity": complexity, "selector": selector,
        "calibrate": calibrate, "seed": seed, "engine": engine,
    }  # fmt: skip
    settings = _settings(subset.SelectConfig, flags, config, "select", {"corpus": corpus, "out": out})
    with _Bar() as bar:
        result = subset.select(settings, bar)
    _print(result, settings.budget)


@app.command()
def compare(
    subsets: Annotated[list[Path], typer.Argument(metavar="SUBSET...", help="finished subsets of one corpus")],
    as_json: Annotated[bool, typer.Option("--json", help="print JSON instead of a table")] = False,
) -> None:
    """Set subsets of one corpus side by side: coverage, distance to the corpus, complexity, overlap."""
    from . import comparison as comparing

    result = comparing.compare(comparing.CompareConfig(subsets=tuple(subsets)))
    console.say(json.dumps(result.to_json(), indent=1) if as_json else comparing.table(result))


@app.command()
def report(
    subset: Annotated[Path, typer.Argument(metavar="SUBSET", help="a finished subset")],
    out: Annotated[
        Path | None, typer.Option(metavar="FILE", help="where the page goes [default: SUBSET/report.html]")
    ] = None,
    corpus: Annotated[
        Path | None,
        typer.Option(metavar="DIR", help="the corpus, to show calibrated patches [default: where it was]"),
    ] = None,
) -> None:
    """Write a page that shows what was chosen: map, complexities, pictures, calibration, times."""
    from . import report_page

    console.say(f"report    {report_page.report(report_page.ReportConfig(subset=subset, out=out, corpus=corpus))}")


def _settings(
    kind: type[Any], flags: Mapping[str, Any], config: Path | None, command: str, places: dict[str, Any]
) -> Any:
    """Build a job's config: its own defaults, what scores were made with, then the TOML, then the flags given."""
    values: dict[str, Any] = configs.read_toml(config) if config is not None else {}
    values |= {key: value for key, value in flags.items() if value is not None}
    if values.get("scores") is not None:
        from .scores import selection_defaults

        values = selection_defaults(Path(values["scores"]), values.get("complexity")) | values
    return configs.build(kind, values | places, where=command if config is None else str(config))


def _print(result: Any, budget: str) -> None:
    share = 100 * result.num_selected / result.num_available
    console.say(
        f"budget    {budget} asked, {result.num_selected} of {result.num_available} patches got ({share:.2f} %)"
    )
    if len(result.tasks) > 1:
        console.say(f"tasks     {', '.join(f'{task} {num}' for task, num in result.tasks.items())}")
    console.say(f"stages    {', '.join(f'{stage} {num}' for stage, num in result.stages.items())}")
    console.say(f"encoder   {result.encoder_label}")
    console.say(f"calibrate {result.calibration['mode']}: {result.calibration['reason']}")
    for step, seconds in result.seconds.items():
        console.say(f"time      {step} {seconds:.2f} s")
    console.say(f"subset    {result.out}" + (" (was finished already; nothing to do)" if result.already_done else ""))


class _Bar:
    """Draws the progress of encoding and of fitting once their lengths are known, one after the other."""

    def __init__(self) -> None:
        self._progress: console.Progress | None = None

    def __enter__(self) -> _Bar:
        return self

    def __exit__(self, kind: Any, error: Any, trace: Any) -> None:
        if self._progress is not None:
            self._progress.__exit__(kind, error, trace)

    def begin(self, total: int, done: int, *, label: str = "encode", unit: str = "patches") -> None:
        """End the bar before, if any, and start this one."""
        self.__exit__(None, None, None)
        self._progress = console.Progress(label, total, done=done, unit=unit).__enter__()

    def step(self, num: int) -> None:
        """Move it."""
        if self._progress is not None:
            self._progress.step(num=num)


def main() -> None:
    """Run `distill`."""
    console.run(app, ("distill", "curate"))
