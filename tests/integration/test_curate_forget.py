"""Forgetting pictures: every trace of their pixels goes, nothing else changes, and no kill leaves half of it."""

import dataclasses
import hashlib
import json
import shutil
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from PIL import Image

from curate import BuildShardsConfig, FilterConfig, build_shards, explain, filter_corpus, open_dataset, verify_corpus
from curate.core import artifacts, config
from curate.core.errors import ConfigError, ManifestError, MissingDependencyError
from curate.fetch.forgotten import load_forgotten, refuse_interrupted
from curate.forget import ForgetConfig, ForgetResult, forget
from curate.lossless import require_libturbojpeg
from curate.manifest import write_table
from curate.recipes import load_recipe
from curate.report_page import write_report

RECIPE = dataclasses.replace(load_recipe("everything", patch_size_px=64), gates=("flat_area",))
try:
    require_libturbojpeg()
    HAVE = True
except MissingDependencyError:
    HAVE = False
ALL_FILES = (
    "shards/*", "metadata/*", "rejected/*", "images/*", "manifest.json", "index.json", "_SUCCESS", "report.html",
)  # fmt: skip


def settings(source: Path, out: Path, **changes) -> BuildShardsConfig:
    fixed = {"recipe": RECIPE, "patch_size_px": 64, "workers": 1, "images_per_shard": 2}
    return BuildShardsConfig(source=source, out=out, **(fixed | changes))


def photographs(root: Path, make_photo, num: int = 6) -> Path:
    """Write pictures, each with a flat corner (so that patches are dropped), one wholly flat, one twice, one broken."""
    root.mkdir(parents=True)
    for index in range(num):
        image = make_photo(index, 128, 192)
        image[:80, :80] = 90
        Image.fromarray(image).save(root / f"{index}.png")
    Image.fromarray(np.full((128, 192, 3), 90, np.uint8)).save(root / "flat.png")
    shutil.copy(root / "1.png", root / "copy of 1.png")
    (root / "broken.png").write_bytes((root / "0.png").read_bytes()[:2000])
    return root


@pytest.fixture
def source(tmp_path, make_photo) -> Path:
    return photographs(tmp_path / "photos", make_photo)


def digests(out: Path, *more: str) -> dict[str, str]:
    paths = [path for name in (*ALL_FILES, *more) for path in sorted(out.glob(name)) if path.is_file()]
    return {str(path.relative_to(out)): hashlib.sha256(path.read_bytes()).hexdigest() for path in paths}


def rows(out: Path) -> dict[str, dict]:
    return {
        row["source"]: row for part in sorted((out / "images").iterdir()) for row in pq.read_table(part).to_pylist()
    }


def sha256_of(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def give_urls(out: Path, urls: dict[str, tuple[str, str]]) -> None:
    """Fill `url` and the `final_url` of `provenance`, as the downloader does."""
    manifest = artifacts.read_json(out / "manifest.json")
    for part in manifest["images"]:
        table = pq.read_table(out / part["file"])
        new = [
            row
            | (
                {"url": urls[row["source"]][0], "provenance": json.dumps({"final_url": urls[row["source"]][1]})}
                if row["source"] in urls
                else {}
            )
            for row in table.to_pylist()
        ]
        write_table(out / part["file"], new, table.schema)
        part["sha256"] = artifacts.sha256_file(out / part["file"])
    listed = {name: manifest[name] for name in ("shards", "images")}
    artifacts.write_json(out / "manifest.json", manifest | {"content_hash": config.config_hash(listed)})


def check_gone(out: Path, sources: set[str], result: ForgetResult, before: dict[str, str]) -> None:
    """Check that no file holds a patch of `sources`, and that what did not hold one is what it was."""
    assert not verify_corpus(out).differences
    dataset = open_dataset(out)
    shards = [shard for group in dataset.stages.values() for shard in group]
    left = [json.loads(sample.members["json"])["source"] for sample in dataset.samples()]
    for shard in shards:
        for name in (shard.metadata, shard.rejected):
            left += pq.read_table(out / name)["source"].to_pylist()
    assert not sources & set(left)
    for name, row in rows(out).items():
        if name in sources:
            assert (row["status"], row["reason"], row["detail"]) == ("rejected", "forgotten", "")
            assert row["num_patches"] == row["num_kept"] == 0 and row["image_sha256"] and row["width"]
            assert all(row[score] is None for score in ("resolution", "aspect", "noise_sigma") if score in row)
        else:
            assert row["reason"] != "forgotten"
    assert result.num_pictures == len(sources)
    after = digests(out)
    changed = {name for name in before if before[name] != after.get(name)}
    assert (
        len({Path(name).stem for name in changed if name.startswith(("shards", "metadata", "rejected"))})
        == result.num_shards
    )
    assert not (out / "ledger" / "forget.json").exists()


def test_by_sha256(source, tmp_path):
    out = tmp_path / "c"
    build_shards(settings(source, out))
    write_report(out)
    before, kept_before = digests(out), open_dataset(out).num_samples
    page = (out / "report.html").read_bytes()
    sha256 = sha256_of(source / "1.png")
    result = forget(ForgetConfig(out=out, sha256s=(sha256[:20].upper(),)))
    check_gone(out, {"1.png", "copy of 1.png"}, result, before)
    assert (result.num_shards, result.num_recorded, result.resumed) == (1, 1, False)
    assert result.num_patches == kept_before - open_dataset(out).num_samples == 5 and result.num_rejected_patches == 1
    assert result.num_bytes > 0
    assert (out / "report.html").read_bytes() != page
    manifest = open_dataset(out).manifest
    assert manifest["funnel"]["reasons"]["rejected: forgotten"] == 2 and manifest["funnel"]["patches"] == 6 * 6
    assert sha256[:20] in (out / "ledger" / "forgotten.jsonl").read_text()
    after = digests(out, "ledger/forgotten.jsonl")
    again = forget(ForgetConfig(out=out, sha256s=(sha256[:20],)))
    assert (again.num_pictures, again.num_shards, again.num_recorded) == (0, 0, 0)
    assert digests(out, "ledger/forgotten.jsonl") == after


def test_a_shard_without_samples_has_no_tar(source, tmp_path):
    out = tmp_path / "c"
    build_shards(settings(source, out, images_per_shard=1))
    before = digests(out)
    assert "shards/patches-000002.tar" in before
    result = forget(ForgetConfig(out=out, sha256s=(sha256_of(source / "2.png"), sha256_of(source / "flat.png"))))
    check_gone(out, {"2.png", "flat.png"}, result, before)
    assert not (out / "shards" / "patches-000002.tar").exists() and result.num_shards == 2
    everything = tuple(row["image_sha256"] for row in rows(out).values() if row["image_sha256"])
    write_report(out)
    forget(ForgetConfig(out=out, sha256s=everything))
    assert not verify_corpus(out).differences and not list((out / "shards").iterdir())
    assert open_dataset(out).num_samples == 0 and rows(out)["broken.png"]["status"] == "failed"


def test_by_host_and_url(source, tmp_path):
    out = tmp_path / "c"
    build_shards(settings(source, out))
    give_urls(out, {
        "0.png": ("https://img.example.org:8443/0.png", ""), "1.png": ("http://short.test/x", "http://me@EXAMPLE.org./1.png"),
        "2.png": ("https://notexample.org/2.png", ""), "3.png": ("https://other.test/a b,c.png", ""),
        "4.png": ("http://[::1]:80/4", ""),
        "copy of 1.png": ("https://mirror.test/1.png", ""), "broken.png": ("https://example.org/broken.png", ""),
    })  # fmt: skip
    before = digests(out)
    result = forget(ForgetConfig(out=out, hosts=("Example.ORG",)))
    check_gone(out, {"0.png", "1.png"}, result, before)
    assert rows(out)["copy of 1.png"]["reason"] == "same-bytes" and rows(out)["broken.png"]["status"] == "failed"
    before = digests(out)
    result = forget(ForgetConfig(out=out, urls=(" https://other.test/a b,c.png ",), hosts=("[::1]",)))
    assert (result.num_pictures, result.num_recorded) == (2, 2)
    assert not verify_corpus(out).differences and {
        name for name, row in rows(out).items() if row["status"] == "kept"
    } == {"2.png", "5.png"}


def test_nothing_matched_is_recorded_and_changes_nothing(source, tmp_path):
    out = tmp_path / "c"
    build_shards(settings(source, out))
    before = digests(out)
    result = forget(ForgetConfig(out=out, hosts=("example.org",), urls=("https://b.test/x",), sha256s=("ab" * 32,)))
    assert (result.num_pictures, result.num_shards, result.num_recorded) == (0, 0, 3) and digests(out) == before
    found = load_forgotten(out)
    assert (
        found.matches("www.example.org", "", "")
        and found.matches_url("https://b.test/x")
        and found.matches("", "", "ab" * 32)
    )


@pytest.mark.skipif(not HAVE, reason="libturbojpeg is not installed")
def test_source_shards_and_pairs(tmp_path, make_photo, jpeg_bytes):
    clean, degraded = tmp_path / "gt", tmp_path / "lq"
    clean.mkdir()
    degraded.mkdir()
    for index in range(4):
        for folder, quality in ((clean, 95), (degraded, 20)):
            image = make_photo(index, 128, 192)
            if index == 3:
                Image.fromarray(image).save(folder / "3.png")
            else:
                (folder / f"{index}.jpg").write_bytes(jpeg_bytes(image, quality=quality))
    (clean / "again.jpg").write_bytes((clean / "0.jpg").read_bytes())  # degraded twice
    (degraded / "again.jpg").write_bytes((degraded / "1.jpg").read_bytes())
    out = tmp_path / "c"
    build_shards(settings(clean, out, paired=degraded, patch_format="source"))
    whole = tmp_path / "whole"
    shutil.copytree(out, whole)
    before = digests(out)
    result = forget(ForgetConfig(out=out, sha256s=(sha256_of(clean / "0.jpg"),)))
    check_gone(out, {"0.jpg", "again.jpg"}, result, before)
    result = forget(ForgetConfig(out=whole, sha256s=(sha256_of(degraded / "1.jpg"),)))
    check_gone(whole, {"1.jpg", "again.jpg"}, result, before)


def test_build_shards_afterwards_changes_nothing(source, tmp_path):
    out = tmp_path / "c"
    build_shards(settings(source, out))
    forget(ForgetConfig(out=out, sha256s=(sha256_of(source / "1.png"),)))
    before = digests(out)
    result = build_shards(settings(source, out))
    assert digests(out) == before and result.resumed
    assert result.reasons["rejected: forgotten"] == 2 and result.counts["kept"] == 5
    assert result.num_patches_kept == open_dataset(out).num_samples
    (out / "_SUCCESS").unlink()  # killed at the very end of another run
    build_shards(settings(source, out))
    assert digests(out) == before


def test_other_commands_read_the_corpus(source, tmp_path):
    out = tmp_path / "c"
    build_shards(settings(source, out))
    forget(ForgetConfig(out=out, sha256s=(sha256_of(source / "1.png"),)))
    write_report(out)
    assert "forgotten" in (out / "report.html").read_text()
    assert "forgotten" in str(explain(out, "1.png"))
    filter_corpus(FilterConfig(corpus=out, out=tmp_path / "wider", where="flat_area >= 0", source=source))
    assert not verify_corpus(tmp_path / "wider").differences
    assert rows(tmp_path / "wider")["1.png"]["reason"] == "forgotten"
    forget(ForgetConfig(out=tmp_path / "wider", sha256s=(sha256_of(source / "2.png"),)))
    assert not verify_corpus(tmp_path / "wider").differences
    before = digests(tmp_path / "wider")
    filter_corpus(FilterConfig(corpus=out, out=tmp_path / "wider", where="flat_area >= 0", source=source))
    assert digests(tmp_path / "wider") == before


class Killed(BaseException):
    """Stands for a kill: no `except Exception` sees it."""


def kill_at(monkeypatch: pytest.MonkeyPatch, step: int, *, after: bool) -> None:
    """Die before or after the step-th change of the file system (renames, removals of files and trees)."""
    count = 0

    def counted(change):
        def run(*arguments, **options):
            nonlocal count
            count += 1
            if count == step and not after:
                raise Killed
            result = change(*arguments, **options)
            if count == step:
                raise Killed
            return result

        return run

    monkeypatch.setattr(Path, "replace", counted(Path.replace))
    remove = counted(artifacts.remove)
    monkeypatch.setattr("curate.core.artifacts.remove", remove)
    monkeypatch.setattr("curate.forget_shard.remove", remove)
    monkeypatch.setattr("curate.forget.shutil.rmtree", counted(shutil.rmtree))


@pytest.mark.parametrize("after", [False, True])
def test_killed_at_any_step(source, tmp_path, monkeypatch, after):
    for name in ("2.png", "3.png", "4.png", "broken.png"):
        (source / name).unlink()
    # drawing the page takes most of a forget's time; `test_by_sha256` has the real one
    monkeypatch.setattr("curate.forget.write_report", lambda out: artifacts.write_bytes(out / "report.html", b"new"))
    whole = tmp_path / "whole"
    build_shards(settings(source, whole, images_per_shard=1))
    (whole / "report.html").write_text("old")
    (whole / "ledger" / "spool").mkdir()
    (whole / "ledger" / "spool" / "000000.bin").write_bytes(b"pixels")
    asked = {"sha256s": (sha256_of(source / "1.png"), sha256_of(source / "flat.png"))}
    out = tmp_path / "c"
    shutil.copytree(whole, out)
    undisturbed = forget(ForgetConfig(out=out, **asked))
    wanted = digests(out, "ledger/**/*.json*")
    assert not verify_corpus(out).differences and undisturbed.num_shards == 2
    assert not list(out.glob("ledger/spool/*"))
    for step in range(1, 200):
        shutil.rmtree(out)
        shutil.copytree(whole, out)
        with monkeypatch.context() as patched:
            kill_at(patched, step, after=after)
            try:
                forget(ForgetConfig(out=out, **asked))
            except Killed:
                pass
            else:
                break
        if not (out / "_SUCCESS").exists():
            with pytest.raises(ManifestError):
                open_dataset(out)
            with pytest.raises(ConfigError, match="was interrupted; run it again"):
                refuse_interrupted(out)
        result = forget(ForgetConfig(out=out, **asked))
        assert digests(out, "ledger/**/*.json*") == wanted, step
        if result.num_pictures:  # else the kill came after the last change
            assert (result.num_pictures, result.num_patches) == (undisturbed.num_pictures, undisturbed.num_patches)
        assert not list(out.rglob(".tmp-*"))
    assert 15 < step < 100


def test_another_request_finishes_an_interrupted_one(source, tmp_path, monkeypatch):
    out, both = tmp_path / "c", tmp_path / "both"
    build_shards(settings(source, out))
    shutil.copytree(out, both)
    first, second = sha256_of(source / "1.png"), sha256_of(source / "4.png")
    with monkeypatch.context() as patched:
        kill_at(patched, 6, after=True)
        with pytest.raises(Killed):
            forget(ForgetConfig(out=out, sha256s=(first,)))
    result = forget(ForgetConfig(out=out, sha256s=(second,)))
    assert result.resumed and result.num_pictures == 3
    forget(ForgetConfig(out=both, sha256s=(first, second)))
    assert digests(out) == digests(both)


def test_what_is_refused(source, tmp_path):
    out = tmp_path / "c"
    build_shards(settings(source, out))
    before = digests(out, "ledger/*")
    for changes, message in (
        ({}, "nothing to forget"), ({"sha256s": ("ab" * 7,)}, "16 to 64 hex digits"), ({"sha256s": ("xy" * 32,)}, "hex digits"),
        ({"hosts": ("https://example.org/",)}, "host must be a name"), ({"hosts": ("",)}, "host must be"),
        ({"urls": ("example.org/a.jpg",)}, "whole URL"),
    ):  # fmt: skip
        with pytest.raises(ConfigError, match=message):
            forget(ForgetConfig(out=out, **changes))
    assert digests(out, "ledger/*") == before
    for place in (tmp_path / "none", source):
        with pytest.raises(ConfigError, match="holds no corpus"):
            forget(ForgetConfig(out=place, hosts=("example.org",)))
        assert not (place / "ledger").exists()
    with artifacts.locked_output(out), pytest.raises(ConfigError, match="another process"):
        forget(ForgetConfig(out=out, hosts=("example.org",)))
    assert digests(out, "ledger/*") == before


def test_an_unfinished_corpus_takes_the_request_and_nothing_more(source, tmp_path):
    out = tmp_path / "c"
    build_shards(settings(source, out))
    asked = ForgetConfig(out=out, sha256s=(sha256_of(source / "1.png"),))
    (out / "_SUCCESS").unlink()  # a killed build, or a retry that adds shards
    before = digests(out)
    for name in ("index.json", "manifest.json"):
        with pytest.raises(ConfigError, match="the request is on record"):
            forget(asked)
        assert load_forgotten(out).sha256s and digests(out) == before
        (out / name).unlink()
        before = digests(out)
    build_shards(settings(source, out))
    assert forget(asked).num_pictures == 2 and not verify_corpus(out).differences


def test_a_copy_without_its_ledger(source, tmp_path):
    build_shards(settings(source, tmp_path / "whole"))
    out = tmp_path / "c"
    shutil.copytree(tmp_path / "whole", out, ignore=shutil.ignore_patterns("ledger"))
    check_gone(
        out,
        {"3.png"},
        forget(ForgetConfig(out=out, sha256s=(sha256_of(source / "3.png"),))),
        digests(tmp_path / "whole"),
    )


@pytest.mark.parametrize("name", ["file", "metadata", "rejected"])
def test_damage_is_not_passed_off_as_whole(source, tmp_path, name):
    out = tmp_path / "c"
    build_shards(settings(source, out))
    damaged = out / getattr(next(iter(open_dataset(out).stages.values()))[0], name)
    data = bytearray(damaged.read_bytes())
    data[len(data) // 3 if name == "file" else -1] ^= 1
    damaged.write_bytes(data)
    before = digests(out)
    with pytest.raises(ManifestError, match=rf"{damaged.name}.*run `curate verify`"):
        forget(ForgetConfig(out=out, sha256s=(sha256_of(source / "0.png"),)))
    assert digests(out) == before and load_forgotten(out)
