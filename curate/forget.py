"""`forget`: take pictures out of a finished corpus, or of a download, on request, and see to it that they never come back.

The request is on disk before anything changes (`ledger/forgotten.jsonl`), the work is in a journal (`ledger/forget.json`)
before the first file changes, and every step may be done again: after a kill the same command goes on.
"""

from __future__ import annotations

import json
import shutil
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from .against import forget_leaks
from .core import artifacts, config
from .core.console import Progress
from .core.errors import ConfigError, ManifestError
from .core.records import ShardInfo
from .dataset import read_manifest, read_table
from .download import JOB
from .fetch.forgotten import JOURNAL, Forgotten, load_forgotten, record, requests
from .forget_download import forget_in_download
from .forget_shard import forget_in_shard, num_patches_of
from .manifest import FINGERPRINT_FIELDS, store_table
from .plan import FORGOTTEN
from .recipes import Recipe
from .report_page import write_report
from .reselect import count_reasons

REPORT = "report.html"
LEFTOVERS = ("ledger/spool", "ledger/bodies", "ledger/parts")
"""Bytes of pictures that a finished corpus has no more use for."""
_NOTHING_LEFT: dict[str, Any] = {"scores": {}, "patches": [], "fingerprint": None, "leaks": [], "forgotten": True}


@dataclass(frozen=True, slots=True, kw_only=True)
class ForgetConfig:
    """What to forget: every picture that one of these names.

    Attributes:
        out: a finished corpus, or a download; changed in place.
        hosts: where a picture was asked for or came from in the end (after redirects). `example.org` also means
            `images.example.org`; a single label (`localhost`) and an address mean themselves alone. Ports are ignored.
        sha256s: first hex digits of a file's hash (`image_sha256`, or `pair_sha256` of a degraded one): 16 to 64.
        urls: URLs as they stand in the list, or the last one after redirects; compared letter by letter.
    """

    out: Path
    hosts: tuple[str, ...] = ()
    sha256s: tuple[str, ...] = ()
    urls: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class ForgetResult:
    """What was removed; all 0 if nothing matched (the request is recorded all the same).

    Attributes:
        out: the corpus.
        num_recorded: requests that were not on record before.
        num_pictures: pictures removed, patches or not.
        num_patches: samples removed from tars.
        num_rejected_patches: rows, with their thumbnails, removed from the rejected tables.
        num_shards: shards rewritten; all others are byte for byte what they were.
        num_bytes: by how much the tars became smaller; of a download, the size of the removed files.
        resumed: this run finished the work of an interrupted one; its numbers are in these.
    """

    out: Path
    num_recorded: int
    num_pictures: int
    num_patches: int
    num_rejected_patches: int
    num_shards: int
    num_bytes: int
    resumed: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class _Job:
    """The journal: what to remove from where, found before the first change."""

    sources: tuple[str, ...] = ()
    shards: tuple[int, ...] = ()
    num_patches: int = 0
    num_rejected_patches: int = 0
    num_bytes: int = 0  # of the touched tars, before
    report: bool = False


def forget(cfg: ForgetConfig) -> ForgetResult:
    """Remove pictures from tars, tables, report and ledger; their rows in `images/` say `rejected: forgotten`.

    Facts of such a row that are no pixels stay (URL, hashes, size); its scores go. Inputs that failed, or were never
    fetched, keep their row: nothing of their pixels was ever stored. The same bytes or pixels from elsewhere are pictures
    of their own: by host or URL, only the rows of that host or URL are forgotten. If such a row is the keeper of
    duplicates, its patches go and the duplicates stay rejected; if it is the duplicate, the keeper stays. By sha256, all
    rows of these bytes go.

    Copies outside OUT (subsets, corpora made by `curate filter`, the photographs themselves) are not looked for.

    Raises:
        ConfigError: nothing was asked, a request is malformed, there is no corpus at `out`, another process writes to it,
            or it is not finished (the request is on record then, and nothing else is done).
        ManifestError: a shard that holds such a picture is damaged; nothing but the request is written then.
    """
    asked = requests(hosts=cfg.hosts, sha256s=cfg.sha256s, urls=cfg.urls)
    if (cfg.out / JOB).is_file():
        return _forget_in_download(cfg.out, asked)
    _check_is_ours(cfg.out)
    with artifacts.locked_output(cfg.out):
        num_recorded = record(cfg.out, asked)
        started = _read_journal(cfg.out)
        manifest = _read_finished(cfg.out, started)
        job = _plan(cfg.out, manifest, load_forgotten(cfg.out), started or _Job())
        shards = _shards(cfg.out, manifest)
        new = set(job.shards) - set(started.shards if started else ())
        _check_whole(cfg.out, [shards[index] for index in sorted(new)])
        if job.sources:
            shards = _carry_out(cfg.out, manifest, job, shards)
    left = sum(shards[index].num_bytes for index in job.shards)
    return ForgetResult(
        out=cfg.out, num_recorded=num_recorded, num_pictures=len(job.sources), num_patches=job.num_patches,
        num_rejected_patches=job.num_rejected_patches, num_shards=len(job.shards), num_bytes=job.num_bytes - left,
        resumed=started is not None,
    )  # fmt: skip


def _forget_in_download(out: Path, asked: Forgotten) -> ForgetResult:
    with artifacts.locked_output(out):
        num_recorded, num_pictures, num_bytes, resumed = forget_in_download(out, asked)
    return ForgetResult(
        out=out, num_recorded=num_recorded, num_pictures=num_pictures, num_patches=0, num_rejected_patches=0, num_shards=0,
        num_bytes=num_bytes, resumed=resumed,
    )  # fmt: skip


def _check_is_ours(out: Path) -> None:
    if not (out / "manifest.json").is_file():
        if not (out / "ledger" / "lock").is_file():
            raise ConfigError(f"{out} holds no corpus; wanted the OUT of `curate build-shards` or `download`")
        return
    kind = read_manifest(out)["kind"]
    if kind != "corpus":
        raise ConfigError(f"{out} is a {kind}; forget in its corpus, then make it again")
    (out / "ledger").mkdir(exist_ok=True)  # somebody who copies a corpus may leave the ledger behind
    (out / "ledger" / "lock").touch()


def _read_finished(out: Path, started: _Job | None) -> dict[str, Any]:
    """Read the manifest of a corpus that is whole, or that only an interrupted run of ours left unfinished."""
    if (out / "manifest.json").is_file() and ((out / "_SUCCESS").exists() or started is not None):
        return read_manifest(out)
    raise ConfigError(
        f"{out} is no finished corpus: the request is on record, so that nothing it names is fetched any more, but nothing "
        "was removed; run the command that makes the corpus to its end, then this one again"
    )


def _shards(out: Path, manifest: Mapping[str, Any]) -> list[ShardInfo]:
    return [config.build(ShardInfo, shard, where=f"{out}/manifest.json: shard") for shard in manifest["shards"]]


def _read_journal(out: Path) -> _Job | None:
    path = out / JOURNAL
    return config.build(_Job, artifacts.read_json(path), where=str(path)) if path.exists() else None


def _plan(out: Path, manifest: Mapping[str, Any], forgotten: Forgotten, started: _Job) -> _Job:
    """Find what matches, added to what an interrupted run had found (it may have removed some of that already)."""
    new = sorted(_matching(out, manifest, forgotten) - set(started.sources))
    shards, kept, dropped, num_bytes = (
        set(started.shards),
        started.num_patches,
        started.num_rejected_patches,
        started.num_bytes,
    )
    sources = pa.array(new, pa.string())
    for index, shard in enumerate(_shards(out, manifest) if new else ()):
        num_kept, num_dropped = num_patches_of(out, shard, sources)
        if num_kept or num_dropped:
            num_bytes += shard.num_bytes if index not in shards else 0
            shards.add(index)
            kept, dropped = kept + num_kept, dropped + num_dropped
    return _Job(
        sources=(*started.sources, *new), shards=tuple(sorted(shards)), num_patches=kept, num_rejected_patches=dropped,
        num_bytes=num_bytes, report=started.report or (out / REPORT).exists(),
    )  # fmt: skip


def _matching(out: Path, manifest: Mapping[str, Any], forgotten: Forgotten) -> set[str]:
    """Name the inputs that match and were decoded, but for those that are forgotten already."""
    columns = ["source", "status", "reason", "image_sha256", "pair_sha256", "url", "provenance"]
    return {
        row["source"]
        for part in manifest["images"]
        for row in read_table(out / part["file"], columns).to_pylist()
        if row["status"] != "failed" and row["image_sha256"] and row["reason"] != FORGOTTEN and _matches(row, forgotten)
    }


def _matches(row: Mapping[str, Any], forgotten: Forgotten) -> bool:
    if any(forgotten.matches("", "", row[name] or "") for name in ("image_sha256", "pair_sha256")):
        return True
    return any(forgotten.matches_url(url) for url in {row["url"] or "", _final_url(row["provenance"])})


def _final_url(provenance: str | None) -> str:
    try:
        found = json.loads(provenance or "{}")
    except ValueError:
        return ""
    return str(found.get("final_url") or "") if isinstance(found, dict) else ""


def _check_whole(out: Path, shards: Sequence[ShardInfo]) -> None:
    """Check what is about to be written again: its new hashes must not vouch for damage."""
    for shard in shards:
        files = {shard.file: shard.sha256, shard.metadata: shard.metadata_sha256, shard.rejected: shard.rejected_sha256}
        for name, sha256 in files.items():
            if name and (not (out / name).is_file() or artifacts.sha256_file(out / name) != sha256):
                raise ManifestError(
                    f"{out / name} is not what the manifest says; nothing was changed; run `curate verify`"
                )


def _carry_out(out: Path, manifest: Mapping[str, Any], job: _Job, shards: list[ShardInfo]) -> list[ShardInfo]:
    """Do the work of the journal; every step may run again."""
    sources = pa.array(job.sources, pa.string())
    artifacts.write_json(out / JOURNAL, config.to_plain(job))
    for name in (REPORT, "_SUCCESS"):
        artifacts.remove(out / name)
    with Progress("forget", len(job.shards)) as progress:
        for index in job.shards:
            shards[index] = forget_in_shard(out, index, shards[index], sources)
            progress.step(f"({shards[index].samples} patches)")
    scores = _scores(manifest)
    parts = [_forget_inputs(out, part, sources, scores) for part in manifest["images"]]
    if "leaks" in manifest:
        manifest = {**manifest, "leaks": forget_leaks(out, job.sources, manifest["leaks"])}
    _clean_ledger(out, frozenset(job.sources))
    _finish(out, manifest, shards, parts)
    if job.report:
        write_report(out)
    artifacts.remove(out / JOURNAL)
    return shards


def _scores(manifest: Mapping[str, Any]) -> list[str]:
    recipe = config.build(Recipe, manifest["config"]["recipe"], where="manifest.json: recipe")
    scores = [name for plugin in recipe.filters() if plugin.level == "image" for name in plugin.columns]
    return [*scores, *(name for name, _ in FINGERPRINT_FIELDS)]


def _forget_inputs(out: Path, part: Mapping[str, Any], sources: pa.Array, scores: Sequence[str]) -> dict[str, Any]:
    """Rewrite the rows of `sources` in one table of inputs; a table without any stays as it is."""
    table = read_table(out / part["file"])
    mask = pc.is_in(table["source"], sources)
    if not pc.any(mask).as_py():
        return dict(part)
    values = {"status": "rejected", "reason": FORGOTTEN, "detail": "", "num_patches": 0, "num_kept": 0}
    for name, value in {**values, **dict.fromkeys(scores)}.items():
        place = table.schema.get_field_index(name)
        if place < 0:  # a corpus of an earlier release
            continue
        field = table.schema.field(place)
        table = table.set_column(place, field, pc.if_else(mask, pa.scalar(value, field.type), table[name]))
    store_table(out / part["file"], table)
    return {**part, "sha256": artifacts.sha256_file(out / part["file"])}


def _clean_ledger(out: Path, sources: frozenset[str]) -> None:
    """Take the patches out of what the scan wrote down; the picture keeps its place, for `build-shards` to resume."""
    for name in LEFTOVERS:
        shutil.rmtree(out / name, ignore_errors=True)
    for path in sorted((out / "ledger" / "scan").glob("*.json")):
        entries = artifacts.read_json(path)
        cleaned = [entry | _NOTHING_LEFT if entry["ref"]["source"] in sources else entry for entry in entries]
        if cleaned != entries:
            artifacts.write_bytes(path, config.canonical_json(cleaned))


def _finish(out: Path, manifest: Mapping[str, Any], shards: Sequence[ShardInfo], parts: list[dict[str, Any]]) -> None:
    """Write index, manifest and, last of all, `_SUCCESS`."""
    listed = {"shards": config.to_plain(list(shards)), "images": parts}
    index = artifacts.read_json(out / "index.json")
    index["shardlist"] = [
        {"url": s.file, "md5sum": s.md5, "nsamples": s.samples, "filesize": s.num_bytes} for s in shards if s.samples
    ]
    funnel = {**manifest["funnel"], **_funnel(out, shards, parts)}
    artifacts.write_json(out / "index.json", index)
    artifacts.write_json(
        out / "manifest.json", {**manifest, "content_hash": config.config_hash(listed), "funnel": funnel, **listed}
    )
    artifacts.write_success(out)


def _funnel(out: Path, shards: Sequence[ShardInfo], parts: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    columns = ["status", "reason", "num_patches"]
    rows = [row for part in parts for row in read_table(out / part["file"], columns).to_pylist()]
    status = Counter(row["status"] for row in rows)
    left = [{"reason": f"{row['status']}: {row['reason']}"} for row in rows if row["status"] != "kept"]
    dropped = [row for shard in shards for row in read_table(out / shard.rejected, ["reason"]).to_pylist()]
    return {
        **{name: status[name] for name in ("kept", "rejected", "failed")}, "reasons": count_reasons(left),
        "patches": sum(row["num_patches"] for row in rows), "patches_kept": sum(shard.samples for shard in shards),
        "patch_reasons": count_reasons(dropped),
    }  # fmt: skip
