"""The program `pipelines`: parse, call, print."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from curate.core import console

app = typer.Typer(
    help="The whole way in one recipe: curate, distill, train, evaluate, restore, report.",
    add_completion=False, no_args_is_help=True, pretty_exceptions_enable=False, rich_markup_mode=None,
)  # fmt: skip


@app.callback()
def callback() -> None:
    """Keep `run` a command of its own while it is the only one."""


@app.command()
def run(
    recipe: Annotated[str, typer.Argument(metavar="RECIPE", help="name of a file in pipelines/recipes, such as demo")],
    out: Annotated[Path, typer.Argument(metavar="OUT", help="folder; a second run skips what has not changed")],
) -> None:
    """Run a recipe from pictures to report."""
    from .recipe import load_recipe
    from .way import run

    result = run(load_recipe(recipe), out)
    console.say(
        f"{'picture':<12}{'task':<10}{'before':>10}{'after':>10}{'gain':>8}   PSNR in dB, protocol {result.protocol}"
    )
    for row in result.scores:
        console.say(
            f"{row.picture:<12}{row.task:<10}{row.before_db:>10.2f}{row.after_db:>10.2f}{row.after_db - row.before_db:>+8.2f}"
        )
    console.say(f"restored  {result.restored}")
    console.say(f"report    {result.report}")


def main() -> None:
    """Entry point of the console script."""
    console.run(app, ("pipelines", "distill", "restoration", "curate"))
