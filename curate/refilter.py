"""`filter_corpus`: choose again from a corpus by an expression over its scores. Kept samples are copied, never decoded."""

from __future__ import annotations

import itertools
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from .core import artifacts, config
from .core.console import Progress
from .core.errors import ConfigError
from .core.records import ShardInfo
from .dataset import Dataset, read_table
from .fetch.forgotten import refuse_interrupted
from .manifest import tool_versions, write_table
from .photographs import Photographs
from .reselect import WHERE_REASON, Decision, count_reasons, decide, image_rows, open_corpus, shards_of
from .reshard import ENTRY, ReshardTask, reshard
from .where import Bools, parse_where


@dataclass(frozen=True, slots=True, kw_only=True)
class FilterConfig:
    """What to choose; `out` and `source` do not change a byte of the result.

    Attributes:
        corpus: a finished corpus.
        out: new folder for the chosen corpus.
        where: the expression (grammar: `curate.where`).
        source: folder of the photographs, needed only for patches that come back.
        dry_run: say what would be kept and write nothing.
    """

    corpus: Path
    out: Path
    where: str
    source: Path | None = None
    dry_run: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class FilterResult:
    """What the expression kept, for people and tests.

    Attributes:
        out: the new corpus.
        num_patches: patches judged, kept and dropped ones.
        num_kept_before: of them, kept in the corpus that was read.
        num_kept: kept from now on.
        num_dropped: kept before, dropped now.
        num_returned: dropped before, kept now.
        num_photographs: photographs that have to be read again for `num_returned`.
        num_uncut: inputs without patches in the tables (rejected or duplicates): no expression reaches them.
        num_bytes_before: encoded patches kept before.
        num_bytes: encoded patches kept from now on; those that come back are estimated in a dry run.
        nulls: column -> patches not kept because it is null.
        held_back: reason -> patches that satisfy the expression and stay out, because a rule and not a gate dropped them.
        only_narrower: why no patch of this corpus can come back; "" if those dropped can, from their photographs.
        seconds: `select` (read the tables, evaluate, decide) and `write`.
        written: False for a dry run.
    """

    out: Path
    num_patches: int
    num_kept_before: int
    num_kept: int
    num_dropped: int
    num_returned: int
    num_photographs: int
    num_uncut: int
    num_bytes_before: int
    num_bytes: int
    nulls: Mapping[str, int]
    held_back: Mapping[str, int]
    only_narrower: str
    seconds: Mapping[str, float]
    written: bool


def filter_corpus(cfg: FilterConfig) -> FilterResult:
    """Write the corpus that an expression keeps, judged from parquet alone.

    The expression takes the place of the recipe's patch gates: a dropped patch that satisfies it comes back, if `source`
    still holds its photograph. Inputs that have no patches in the tables (rejected by a picture gate, duplicates) stay
    out. The same command on the same OUT resumes; equal corpus and expression give equal bytes.

    Raises:
        ConfigError: a bad expression, nothing kept, photographs missing or changed, or an OUT used for something else.
        ManifestError: no finished corpus, or one that is not what its tables say.
    """
    start = time.perf_counter()
    where = parse_where(cfg.where)
    parent = open_corpus(cfg.corpus, reader="filter")
    decision = decide(parent, where)
    selected = time.perf_counter()
    if cfg.dry_run:
        return _result(cfg, parent, decision, {"select": selected - start}, None)
    _check(cfg, parent, decision)
    with artifacts.locked_output(cfg.out):
        refuse_interrupted(cfg.out)
        _open_ledger(cfg, parent)
        shards = _write_shards(cfg, parent, decision)
        seconds = {"select": selected - start, "write": time.perf_counter() - selected}
        if not (cfg.out / "_SUCCESS").exists():
            artifacts.write_json(cfg.out / "ledger" / "times.json", seconds)
            _finish(cfg, parent, decision, shards)
    return _result(cfg, parent, decision, seconds, shards)


def returned_sources(decision: Decision) -> list[str]:
    """List the photographs that have to be read again, sorted."""
    mask = decision.keep & ~decision.kept_now
    return sorted(set(decision.table["source"].filter(mask).to_pylist()))


def _check(cfg: FilterConfig, parent: Dataset, decision: Decision) -> None:
    if cfg.out.resolve() == cfg.corpus.resolve():
        raise ConfigError(f"OUT is the corpus itself ({cfg.corpus}); choose a new folder")
    if not decision.keep.any():
        raise ConfigError(
            f"no patch of {len(decision.keep)} satisfies {cfg.where!r}; look at the scores with `curate stats`"
        )
    again = returned_sources(decision)
    if not again:
        return
    num = int((decision.keep & ~decision.kept_now).sum())
    if why := _only_narrower(parent):
        raise ConfigError(f"{cfg.where!r} brings back {num} patches; {why}")
    if cfg.source is None:
        raise ConfigError(
            f"{cfg.where!r} brings back {num} patches of {len(again)} photographs; "
            "give --source DIR, the folder the corpus was built from"
        )
    Photographs(root=cfg.source).check(again)


def _only_narrower(parent: Dataset) -> str:
    if parent.manifest["config"].get("paired"):
        return "a corpus of pairs can only be narrowed"
    if "fetch" in parent.manifest["config"]:  # its pictures were fetched, scanned and deleted
        return "a corpus made from a list of URLs can only be narrowed: `curate download` the list and build from that folder"
    return ""


def _open_ledger(cfg: FilterConfig, parent: Dataset) -> None:
    entry = {"where": cfg.where.strip(), "parent": parent.content_hash, "versions": tool_versions()}
    path = cfg.out / "ledger" / "run.json"
    if not path.exists():
        artifacts.write_json(path, entry)
        return
    found = artifacts.read_json(path)
    if found == entry:
        return
    meanings = {"where": "another --where", "parent": "another corpus", "versions": "other library versions"}
    changed = next((name for name in entry if not isinstance(found, dict) or found.get(name) != entry[name]), "where")
    what = meanings[changed] if isinstance(found, dict) and "parent" in found else "another command"
    raise ConfigError(f"output {cfg.out} was begun with {what}; use a new OUT or delete this one")


def _write_shards(cfg: FilterConfig, parent: Dataset, decision: Decision) -> list[ShardInfo]:
    infos = shards_of(parent)
    owner = decision.table["shard"].to_numpy()
    places = _places(parent) if decision.keep.any() else {}
    done = [(cfg.out / ENTRY.format(index)).exists() for index in range(len(infos))]
    with Progress("filter", len(infos), done=sum(done)) as progress:
        for index, info in enumerate(infos):
            if done[index]:
                continue
            mask = owner == index
            shard = reshard(ReshardTask(
                index=index, parent=cfg.corpus, out=cfg.out, shard=info, photographs=cfg.source, places=places,
                keep=decision.keep[mask], by_rule=decision.by_rule[mask],
            ))  # fmt: skip
            progress.step(f"({shard.samples} patches)")
    entries = [artifacts.read_json(cfg.out / ENTRY.format(index)) for index in range(len(infos))]
    return [config.build(ShardInfo, entry, where="ledger") for entry in entries]


def _places(parent: Dataset) -> dict[str, tuple[int, int, int]]:
    """Map each source to its place in input order, its width and its height."""
    rows = image_rows(parent, ["source", "width", "height"])
    return {row["source"]: (index, row["width"] or 0, row["height"] or 0) for index, row in enumerate(rows)}


def _finish(cfg: FilterConfig, parent: Dataset, decision: Decision, shards: Sequence[ShardInfo]) -> None:
    """Write the tables of inputs, the wids index, the manifest and, last of all, `_SUCCESS`."""
    parts, images = _write_images(cfg, parent, decision)
    content = {**parent.manifest["config"], "where": cfg.where.strip(), "parent": parent.content_hash}
    listed = {"shards": config.to_plain(list(shards)), "images": parts}
    manifest = {
        **parent.manifest, "content_hash": config.config_hash(listed), "config": content,
        "config_hash": config.config_hash(content), "versions": tool_versions(),
        "funnel": {**parent.manifest["funnel"], **_funnel(cfg, images, shards)}, **listed,
    }  # fmt: skip
    index = artifacts.read_json(cfg.corpus / "index.json")
    index["shardlist"] = [
        {"url": s.file, "md5sum": s.md5, "nsamples": s.samples, "filesize": s.num_bytes} for s in shards if s.samples
    ]
    if "leaks" in parent.manifest:  # what was removed is as before
        name = parent.manifest["leaks"]["file"]
        artifacts.write_bytes(cfg.out / name, (cfg.corpus / name).read_bytes())
    artifacts.write_json(cfg.out / "index.json", index)
    artifacts.write_json(cfg.out / "manifest.json", manifest)
    artifacts.write_success(cfg.out)


def _write_images(
    cfg: FilterConfig, parent: Dataset, decision: Decision
) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    sources = decision.table["source"].to_pylist()
    kept, cut = Counter(itertools.compress(sources, decision.keep.tolist())), Counter(sources)
    parts, images = [], []
    for part in parent.manifest["images"]:
        table = read_table(cfg.corpus / part["file"])
        rows = [_image_row(row, kept[row["source"]]) if row["source"] in cut else row for row in table.to_pylist()]
        write_table(cfg.out / part["file"], rows, table.schema)
        parts.append({**part, "sha256": artifacts.sha256_file(cfg.out / part["file"])})
        images += [{name: row[name] for name in ("status", "reason")} for row in rows]
    return parts, images


def _image_row(row: dict[str, Any], num_kept: int) -> dict[str, Any]:
    if num_kept == row["num_kept"]:  # as it was, and why
        return row
    if num_kept:
        return row | {"status": "kept", "reason": "", "detail": "", "num_kept": num_kept}
    detail = f"{WHERE_REASON} {row['num_patches']}"
    return row | {"status": "rejected", "reason": "no-patch-kept", "detail": detail, "num_kept": 0}


def _funnel(cfg: FilterConfig, images: Sequence[Mapping[str, Any]], shards: Sequence[ShardInfo]) -> dict[str, Any]:
    status = Counter(row["status"] for row in images)
    left = [{"reason": f"{row['status']}: {row['reason']}"} for row in images if row["status"] != "kept"]
    dropped = [row for s in shards for row in read_table(cfg.out / s.rejected, ["reason"]).to_pylist()]
    return {
        **{name: status[name] for name in ("kept", "rejected", "failed")}, "reasons": count_reasons(left),
        "patches_kept": sum(shard.samples for shard in shards), "patch_reasons": count_reasons(dropped),
    }  # fmt: skip


def _result(
    cfg: FilterConfig,
    parent: Dataset,
    decision: Decision,
    seconds: Mapping[str, float],
    shards: Sequence[ShardInfo] | None,
) -> FilterResult:
    before, returned = decision.kept_now, decision.keep & ~decision.kept_now
    return FilterResult(
        out=cfg.out, num_patches=len(before), num_kept_before=int(before.sum()), num_kept=int(decision.keep.sum()),
        num_dropped=int((before & ~decision.keep).sum()), num_returned=int(returned.sum()),
        num_photographs=len(returned_sources(decision)), num_uncut=_num_uncut(parent, decision),
        num_bytes_before=_bytes(decision, before), num_bytes=_bytes_kept(cfg, decision, shards), nulls=decision.nulls,
        held_back=decision.held_back, only_narrower=_only_narrower(parent), seconds=seconds, written=shards is not None,
    )  # fmt: skip


def _bytes(decision: Decision, mask: Bools) -> int:
    return int(np.nansum(decision.table["num_bytes"].to_numpy().astype(float)[mask]))


def _bytes_kept(cfg: FilterConfig, decision: Decision, shards: Sequence[ShardInfo] | None) -> int:
    """Sum the bytes of the chosen patches; without written shards, those that come back count as the mean of the kept."""
    if shards is not None:
        columns = [read_table(cfg.out / shard.metadata, ["num_bytes"])["num_bytes"].to_pylist() for shard in shards]
        return sum(value for column in columns for value in column)
    before = decision.kept_now
    mean = _bytes(decision, before) / max(1, int(before.sum()))
    return _bytes(decision, before & decision.keep) + round(mean * int((decision.keep & ~before).sum()))


def _num_uncut(parent: Dataset, decision: Decision) -> int:
    return len(image_rows(parent, ["source"])) - len(set(decision.table["source"].to_pylist()))
