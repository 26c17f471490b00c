"""What the longer commands of `curate` print when they are done."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import TYPE_CHECKING

from .core import console

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from .audit import CheckLeaksResult
    from .build import BuildShardsResult
    from .download import DownloadResult

MAX_LINES = 20


def tell_retry(result: BuildShardsResult | DownloadResult, kinds: Sequence[str]) -> None:
    """Say what became of the rows that were tried again."""
    from .download import DownloadResult

    if result.num_retried:
        failed = result.num_retried - result.num_came
        console.say(f"retry    {result.num_retried} rows: {result.num_came} came, {failed} failed again")
    else:
        console.say(f"retry    nothing to try again: no row is of class {' or '.join(kinds)}")
    if isinstance(result, DownloadResult):
        tell_download(result)
    else:
        tell_build(result)


def tell_build(result: BuildShardsResult) -> None:
    """Say what was kept of what, and where it is."""
    for failure in result.failures[:20]:
        console.note(f"failed: {failure}")
    if len(result.failures) > 20:
        console.note(f"... and {len(result.failures) - 20} more; see {result.out}/images")
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
    kinds = ", ".join(f"{num} {extension}" for extension, num in result.num_by_extension.items())
    if result.num_by_split:
        parts = ", ".join(f"{name} {num}" for name, num in result.num_by_split.items())
        console.say(f"splits   {parts} patches")
        for name in (name for name, num in result.num_by_split.items() if not num):
            console.say(f"note     no picture fell into {name}: a share is one of groups, and there are few of them")
    if result.num_leaks is not None:
        console.say(f"leaks    {result.num_leaks} benchmark pictures found, listed in {result.out}/leaks.parquet")
    console.say(f"shards   {result.num_shards}, {console.human_bytes(result.num_bytes)} ({kinds})")
    times = ", ".join(f"{stage} {seconds:.1f} s" for stage, seconds in result.seconds.items())
    console.say(f"time     {times}" + (" (resumed)" if result.resumed else ""))
    if result.published:
        console.say(f"corpus   {result.published} (made in {result.out})")
        return
    console.say(f"corpus   {result.out}")
    _tell_what_may_change(result.out, _classes_of(result.out))


def _classes_of(corpus: Path) -> Mapping[str, int]:
    """Count rows of the list by class; of a folder there are none. The table of inputs has the decoder's reasons, too."""
    from .fetch.ledger import Ledger
    from .intake import LIST

    if not (corpus / LIST).is_file():
        return {}
    with Ledger(corpus) as ledger:
        return ledger.classes()


def tell_download(result: DownloadResult) -> None:
    """Say what came, what did not, and where it is."""
    console.say(f"urls     {result.num_rows}")
    for name, count in result.classes.items():
        console.say(f"           {count:5d}  {name}")
        if name in result.examples:
            console.say(f"{'':20}{' '.join(result.examples[name].split())}")
    console.say(f"bytes    {console.human_bytes(result.num_bytes)}")
    console.say(f"time     {result.seconds:.1f} s" + (" (resumed)" if result.resumed else ""))
    pictures = f"{result.out}/pictures" if result.num_bytes else "none: not one URL gave a picture"
    console.say(f"pictures {pictures}, every URL in {result.out}/urls")
    _tell_what_may_change(result.out, result.classes)


def _tell_what_may_change(out: Path, classes: Mapping[str, int]) -> None:
    from .fetch.faults import MAY_CHANGE

    if again := [kind for kind in MAY_CHANGE if classes.get(kind)]:
        console.say(f"retry    curate retry {shlex.quote(str(out))} --class {','.join(again)}")


def tell_leaks(result: CheckLeaksResult) -> None:
    """Name every leak, and say what was looked for in what."""
    for found in result.leaks[:MAX_LINES]:
        leak = found.leak
        console.say(
            f"{found.key}.{found.member}: shows {leak.pack}/{leak.benchmark} "
            f"(correlation {leak.score:.2f}, {leak.num_inliers} points agree)"
        )
    if len(result.leaks) > MAX_LINES:
        console.say(f"... and {len(result.leaks) - MAX_LINES} more")
    packs = ", ".join(f"{pack.name} ({pack.num_pictures})" for pack in result.packs)
    what = f"{result.num_samples} samples, {result.num_benchmarks} benchmark pictures: {packs}"
    keys = len({found.key for found in result.leaks})
    console.say(f"{keys} samples hold a benchmark picture, of {what}" if keys else f"no leak: {what}")
