"""Score once, select later: filter, explain and report on finished corpora."""

import hashlib
import json
import re
import shutil
import sys
import types
from pathlib import Path

import cv2
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from curate import (
    BuildShardsConfig,
    FilterConfig,
    build_shards,
    explain,
    filter_corpus,
    open_dataset,
    verify_corpus,
    write_report,
)
from curate.core import artifacts
from curate.core.errors import ConfigError, ManifestError
from curate.recipes import Recipe
from curate.reselect import to_column
from curate.shards import read_shard
from curate.where import evaluate, parse_where
from curate.why import tell

MEASURE = ("resolution", "aspect", "noise_sigma", "flat_area", "sharpness")
STRICT = Recipe(
    name="strict",
    measure=MEASURE,
    gates=("resolution", "sharpness"),
    thresholds={"sharpness": {"min_sharpness": 27.0}, "resolution": {"min_side_px": 200}},
)
OPEN = Recipe(name="open", measure=MEASURE, gates=("resolution",), thresholds={"resolution": {"min_side_px": 200}})


def build(source: Path, out: Path, recipe: Recipe, **changes) -> Path:
    build_shards(
        BuildShardsConfig(
            source=source, out=out, recipe=recipe, patch_size_px=128, workers=1, images_per_shard=2, **changes
        )
    )
    return out


@pytest.fixture(scope="module", name="studio")
def make_studio(tmp_path_factory, make_folder) -> Path:
    """Make photographs, softer ones, a copy, a small and a broken one, and two corpora: `strict` and `open`."""
    root = tmp_path_factory.mktemp("studio")
    folder = make_folder(root / "photos")
    for index, sigma in ((2, 1.2), (4, 2.5)):
        sharp = cv2.imread(str(folder / f"photo {index}.jpg"))
        cv2.imwrite(str(folder / f"soft {index}.png"), cv2.GaussianBlur(sharp, (0, 0), sigma))
    cv2.imwrite(str(folder / "tiny.png"), sharp[:150, :160])
    shutil.copy(folder / "photo 0.jpg", folder / "same bytes.jpg")
    (folder / "text <b>.jpg").write_text("not a picture")
    build(folder, root / "strict", STRICT)
    build(folder, root / "open", OPEN)
    return root


def digests(out: Path) -> dict[str, str]:
    names = ("shards/*", "metadata/*", "rejected/*", "images/*", "manifest.json", "index.json", "_SUCCESS")
    return {
        str(p.relative_to(out)): hashlib.sha256(p.read_bytes()).hexdigest() for n in names for p in sorted(out.glob(n))
    }


def choose(studio: Path, out: Path, where: str, **changes):
    return filter_corpus(FilterConfig(**({"corpus": studio / "strict", "out": out, "where": where} | changes)))


def rows(corpus: Path, table: str) -> list[dict]:
    return pq.read_table(corpus / table).to_pylist()


def images(corpus: Path) -> dict[str, dict]:
    return {row["source"]: row for row in rows(corpus, "images")}


def sharpest(studio: Path, num: int) -> float:
    """Find a threshold that keeps `num` of the patches kept in `strict`."""
    return sorted((row["sharpness"] for row in rows(studio / "strict", "metadata")), reverse=True)[num]


def test_narrowing_copies_samples_and_opens_no_picture(studio, tmp_path, monkeypatch):
    shutil.copytree(studio / "strict", tmp_path / "strict")  # the photographs are not beside it

    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("a picture was decoded")

    for module, name in (
        ("curate.core.images", "decode_image"),
        ("curate.photographs", "decode_image"),
        ("cv2", "imdecode"),
    ):
        monkeypatch.setattr(f"{module}.{name}", refuse)
    where = f"sharpness > {sharpest(studio, 9)!r}"
    result = choose(studio, tmp_path / "out", where, corpus=tmp_path / "strict")
    monkeypatch.undo()
    assert (result.num_kept, result.num_returned, result.num_photographs) == (9, 0, 0)
    assert result.num_dropped == result.num_kept_before - 9 > 0
    parent = {sample.key: sample.members for sample in open_dataset(studio / "strict").samples()}
    chosen = list(open_dataset(tmp_path / "out").samples())
    assert [dict(sample.members) for sample in chosen] == [dict(parent[sample.key]) for sample in chosen]
    assert [s.key for s in chosen] == [key for key in parent if key in {s.key for s in chosen}]  # the parent's order
    assert len(chosen) == 9 and verify_corpus(tmp_path / "out").differences == ()
    dropped = {row["key"]: row for row in rows(tmp_path / "out", "rejected")}
    before = {row["key"]: row for row in rows(studio / "strict", "rejected")}
    assert len(dropped) == result.num_patches - 9
    assert {row["reason"] for row in dropped.values()} == {"where"}
    assert all(
        row["thumbnail"] == (before[key]["thumbnail"] if key in before else None) for key, row in dropped.items()
    )
    assert all(row["num_bytes"] is None and row["patch_sha256"] is None for row in dropped.values())
    manifest = open_dataset(tmp_path / "out").manifest
    assert manifest["config"]["where"] == where
    assert manifest["config"]["parent"] == open_dataset(studio / "strict").content_hash
    assert manifest["funnel"]["patches_kept"] == 9 and manifest["funnel"]["inputs"] == 11


def test_the_tables_of_inputs_follow(studio, tmp_path):
    choose(studio, tmp_path / "out", "source == 'photo 0.jpg' and sharpness >= 27")
    before, after = images(studio / "strict"), images(tmp_path / "out")
    assert list(after) == list(before)
    assert after["photo 0.jpg"]["status"] == "kept"
    assert after["photo 2.jpg"] | {"num_kept": 0} == before["photo 2.jpg"] | {
        "status": "rejected", "reason": "no-patch-kept", "detail": "where 6", "num_kept": 0,
    }  # fmt: skip
    for name in ("same bytes.jpg", "text <b>.jpg", "tiny.png"):
        assert after[name] == before[name]


def test_widening_gives_the_bytes_of_the_wider_recipe(studio, tmp_path):
    """What comes back is encoded as build-shards would have: the tars of recipe `open` and of the filter are equal."""
    result = choose(studio, tmp_path / "out", "sharpness >= 0", source=studio / "photos")
    assert result.num_returned == result.num_patches - result.num_kept_before > 0 and result.num_dropped == 0
    tars = {name: digest for name, digest in digests(studio / "open").items() if name.endswith(".tar")}
    assert {name: digest for name, digest in digests(tmp_path / "out").items() if name.endswith(".tar")} == tars
    assert rows(tmp_path / "out", "metadata") == rows(studio / "open", "metadata")
    assert rows(tmp_path / "out", "images") == rows(studio / "open", "images")
    assert verify_corpus(tmp_path / "out").differences == ()


def test_there_and_back_again_is_the_same_corpus(studio, tmp_path):
    choose(studio, tmp_path / "wide", "sharpness >= 0", source=studio / "photos")
    choose(studio, tmp_path / "back", "sharpness >= 27", corpus=tmp_path / "wide")
    before, after = digests(studio / "strict"), digests(tmp_path / "back")
    assert {n: d for n, d in after.items() if n.startswith(("shards", "metadata", "index"))} == {
        n: d for n, d in before.items() if n.startswith(("shards", "metadata", "index"))
    }


def test_equal_commands_give_equal_bytes_and_resume(studio, tmp_path):
    where = f"sharpness > {sharpest(studio, 5)!r} or source == 'soft 2.png' and flat_area <= 1"
    for name in ("a", "b"):
        choose(studio, tmp_path / name, where, source=studio / "photos")
    assert digests(tmp_path / "a") == digests(tmp_path / "b") != {}
    for lost in ("_SUCCESS", "manifest.json", "ledger/shards/000001.json", "shards/patches-000001.tar"):
        (tmp_path / "b" / lost).unlink()
    untouched = (tmp_path / "b" / "shards" / "patches-000000.tar").stat().st_mtime_ns
    result = choose(studio, tmp_path / "b", where, source=studio / "photos")
    assert digests(tmp_path / "a") == digests(tmp_path / "b")
    assert (tmp_path / "b" / "shards" / "patches-000000.tar").stat().st_mtime_ns == untouched
    assert result.written and result.num_kept == open_dataset(tmp_path / "b").num_samples


def test_a_used_output_is_refused(studio, tmp_path):
    choose(studio, tmp_path / "out", "sharpness > 40")
    with pytest.raises(ConfigError, match="begun with another --where"):
        choose(studio, tmp_path / "out", "sharpness > 50")
    with pytest.raises(ConfigError, match="begun with another command"):
        choose(studio, studio / "open", "sharpness > 40")
    with pytest.raises(ConfigError, match="OUT is the corpus itself"):
        choose(studio, studio / "strict", "sharpness > 40")
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "letter.txt").write_text("dear")
    with pytest.raises(ConfigError, match="already holds other files"):
        choose(studio, tmp_path / "mine", "sharpness > 40")


def test_a_dry_run_writes_nothing(studio, tmp_path, program):
    result = choose(studio, tmp_path / "out", "sharpness > 9.2", dry_run=True)
    assert not (tmp_path / "out").exists() and not result.written
    assert result.num_kept == result.num_kept_before + result.num_returned - result.num_dropped
    run = program("curate", "filter", studio / "strict", tmp_path / "out", "--where", "sharpness > 9.2", "--dry-run")
    assert run.returncode == 0 and f"{result.num_kept} would be kept" in run.stdout, run
    assert f"{result.num_returned} brought back from {result.num_photographs} photographs" in run.stdout
    assert not (tmp_path / "out").exists()


def test_photographs_are_asked_for_only_when_needed(studio, tmp_path):
    with pytest.raises(ConfigError, match=r"brings back \d+ patches of \d photographs; give --source DIR"):
        choose(studio, tmp_path / "out", "sharpness > 1")
    shutil.copytree(studio / "photos", tmp_path / "moved")
    (tmp_path / "moved" / "soft 2.png").unlink()
    with pytest.raises(ConfigError, match=r"1 of . photographs to read again are not in --source .*first soft 2.png"):
        choose(studio, tmp_path / "out", "sharpness > 1", source=tmp_path / "moved")
    shutil.copy(studio / "photos" / "soft 4.png", tmp_path / "moved" / "soft 2.png")
    with pytest.raises(ConfigError, match=r"soft 2\.png is not the file the corpus was built from"):
        choose(studio, tmp_path / "out", "sharpness > 1", source=tmp_path / "moved")
    shutil.copy(studio / "photos" / "soft 2.png", tmp_path / "moved" / "soft 2.png")
    assert choose(studio, tmp_path / "out", "sharpness > 1", source=tmp_path / "moved").num_returned > 0


@pytest.mark.parametrize(
    ("where", "message"),
    [
        ("sharpnes > 1", "no score or column called 'sharpnes'; near names: sharpness"),
        ("resolutoin > 1", "near names: image_resolution|near names: resolution"),
        ("thumbnail is null", "no score or column called 'thumbnail'"),
        ("sharpness > 1e9", "no patch of .* satisfies"),
        ("sharpness > 'x'", "sharpness is a number; compare"),
        ("source > 1", "source is text; compare it with a quoted string"),
    ],
)
def test_an_expression_that_cannot_be_is_one_line(studio, tmp_path, where, message):
    with pytest.raises(ConfigError, match=message) as caught:
        choose(studio, tmp_path / "out", where)
    assert "\n" not in str(caught.value) and not (tmp_path / "out").exists()


def test_a_name_may_be_the_images(studio, tmp_path):
    short = choose(studio, tmp_path / "a", "resolution >= 250 and sharpness > 40", dry_run=True)
    long = choose(studio, tmp_path / "a", "image_resolution >= 250 and sharpness > 40", dry_run=True)
    assert short.num_kept == long.num_kept > 0
    assert choose(studio, tmp_path / "a", "image_resolution < 250", dry_run=True).num_kept == 0


def edit(corpus: Path, table: str, change) -> None:
    """Change the rows of one table and the manifest's hashes with them."""
    path = corpus / table
    old = pq.read_table(path)
    pq.write_table(pa.Table.from_pylist([change(row) for row in old.to_pylist()], schema=old.schema), path)
    manifest = json.loads((corpus / "manifest.json").read_text())
    for shard in manifest["shards"]:
        for name in ("metadata", "rejected"):
            shard[f"{name}_sha256"] = artifacts.sha256_file(corpus / shard[name])
    artifacts.write_json(corpus / "manifest.json", manifest)


def test_nulls_are_counted_and_not_kept(studio, tmp_path):
    shutil.copytree(studio / "strict", tmp_path / "c")
    first = [row["key"] for row in rows(studio / "strict", "metadata")][:2]
    edit(
        tmp_path / "c",
        "metadata/patches-000000.parquet",
        lambda r: r | ({"flat_area": None} if r["key"] in first else {}),
    )
    result = choose(studio, tmp_path / "out", "not flat_area > 2 and sharpness >= 27", corpus=tmp_path / "c")
    assert result.nulls == {"flat_area": 2} and result.num_kept == result.num_kept_before - 2
    assert not {row["key"] for row in rows(tmp_path / "out", "metadata")} & set(first)
    either = choose(studio, tmp_path / "x", "flat_area <= 1 or sharpness >= 27", corpus=tmp_path / "c", dry_run=True)
    assert either.nulls == {}  # they are kept for their sharpness


def test_what_a_rule_dropped_stays_out(studio, tmp_path):
    """A duplicate is no matter of thresholds: it keeps its reason and is counted aloud."""
    shutil.copytree(studio / "strict", tmp_path / "c")
    index = next(i for i in range(9) if rows(studio / "strict", f"rejected/patches-{i:06d}.parquet"))
    table = f"rejected/patches-{index:06d}.parquet"
    key = rows(studio / "strict", table)[0]["key"]
    edit(tmp_path / "c", table, lambda row: row | ({"reason": "near-duplicate"} if row["key"] == key else {}))
    result = choose(studio, tmp_path / "out", "sharpness >= 0", corpus=tmp_path / "c", source=studio / "photos")
    assert result.held_back == {"near-duplicate": 1} and result.num_kept == result.num_patches - 1
    assert [row["reason"] for row in rows(tmp_path / "out", "rejected")] == ["near-duplicate"]


def test_jpeg_shards_get_jpeg_crops(studio, monkeypatch):
    """Shards of extension jpg are filled by `curate.lossless.crop_jpeg`, the others by our own encoder."""
    from curate.core.images import decode_image, decode_patch
    from curate.photographs import Photographs

    path = studio / "photos" / "photo 0.jpg"
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    asked = []

    def crop_jpeg(data: bytes, origins: list[tuple[int, int]], size_px: int) -> list[bytes]:
        asked.append((len(data), origins, size_px))
        return [b"crop"] * len(origins)

    module = types.ModuleType("curate.lossless")
    module.crop_jpeg = crop_jpeg
    monkeypatch.setitem(sys.modules, "curate.lossless", module)
    photographs = Photographs(root=studio / "photos")
    origins = [(0, 128), (128, 0)]
    crops = photographs.cut("photo 0.jpg", digest, origins, size_px=128, extension="jpg")
    assert crops == [b"crop", b"crop"] and asked == [(path.stat().st_size, origins, 128)]
    pixels = decode_image(path.read_bytes())
    for extension in ("webp", "png"):
        cut = photographs.cut("photo 0.jpg", digest, origins, size_px=128, extension=extension)
        for data, (y, x) in zip(cut, origins, strict=True):
            assert np.array_equal(decode_patch(data), pixels[y : y + 128, x : x + 128])


def test_shards_may_have_different_extensions(studio, tmp_path):
    """A corpus whose first shard is png and whose others are webp: what comes back takes its shard's extension."""
    shutil.copytree(studio / "strict", tmp_path / "c")
    build(studio / "photos", tmp_path / "png", STRICT, patch_format="png")
    manifests = [json.loads((tmp_path / name / "manifest.json").read_text()) for name in ("c", "png")]
    manifests[0]["shards"][0] = manifests[1]["shards"][0]
    for name in ("file", "metadata", "rejected"):
        shutil.copy(
            tmp_path / "png" / manifests[1]["shards"][0][name], tmp_path / "c" / manifests[1]["shards"][0][name]
        )
    artifacts.write_json(tmp_path / "c" / "manifest.json", manifests[0])
    choose(studio, tmp_path / "out", "sharpness >= 0", corpus=tmp_path / "c", source=studio / "photos")
    chosen = [
        {sample.image()[0] for sample in read_shard(tar)} for tar in sorted((tmp_path / "out" / "shards").iterdir())
    ]
    assert chosen[0] == {"png"} and chosen[1:] == [{"webp"}] * (len(chosen) - 1) != []
    assert verify_corpus(tmp_path / "out").differences == ()
    assert page_of(tmp_path / "out").count("<img ") > 0


def test_true_and_false_compare_as_one_and_zero():
    column = to_column(pa.chunked_array([[True, None], [False]]))
    assert evaluate(parse_where("kept_flat == 1"), {"kept_flat": column}).true.tolist() == [True, False, False]
    assert evaluate(parse_where("not kept_flat == 1"), {"kept_flat": column}).true.tolist() == [False, False, True]


def test_a_corpus_that_lies_is_found_out(studio, tmp_path):
    shutil.copytree(studio / "strict", tmp_path / "c")
    tar = tmp_path / "c" / "shards" / "patches-000000.tar"
    data = bytearray(tar.read_bytes())
    data[700] ^= 1
    tar.write_bytes(data)
    with pytest.raises(ManifestError, match="sha256 differs from its row"):
        choose(studio, tmp_path / "out", "sharpness >= 27", corpus=tmp_path / "c")
    tar.write_bytes(data[:3000])
    with pytest.raises(ManifestError, match=r"not a whole tar|run `curate verify`"):
        choose(studio, tmp_path / "out2", "sharpness >= 27", corpus=tmp_path / "c")
    assert not (tmp_path / "out" / "_SUCCESS").exists()


def test_explain_names_what_decided_a_patch(studio, tmp_path, program):
    row = rows(studio / "strict", "rejected")[0]
    found = explain(studio / "strict", row["key"])
    assert (found.kind, found.status, found.reason, found.source) == ("patch", "dropped", "blurry", row["source"])
    assert [(gate.gate, gate.passed) for gate in found.gates] == [("resolution", True), ("sharpness", False)]
    assert (
        found.gates[1].thresholds == {"min_sharpness": 27.0} and found.gates[1].values["sharpness"] == row["sharpness"]
    )
    assert found.decided_by.startswith("sharpness: ") and f"sharpness {row['sharpness']:.6g}" in found.decided_by
    assert "min_sharpness 27" in found.decided_by
    assert found.scores["flat_area"] == row["flat_area"] and found.facts["image_sha256"] == row["image_sha256"]
    kept = rows(studio / "strict", "metadata")[0]
    assert explain(studio / "strict", kept["key"]).decided_by == "every gate passed"
    run = program("curate", "explain", studio / "strict", row["key"])
    assert run.returncode == 0 and "DROPPED (blurry)" in run.stdout and "FAIL <- sharpness" in run.stdout, run
    assert run.stdout.splitlines() == tell(found)
    run = program("curate", "explain", studio / "strict", "nobody.jpg")
    assert run.returncode == 2 and len(run.stderr.splitlines()) == 1


def test_explain_names_what_decided_a_picture(studio):
    told = {name: explain(studio / "strict", name) for name in images(studio / "strict")}
    assert told["tiny.png"].decided_by == "resolution: resolution 150 fails min_side_px 200"
    assert told["text <b>.jpg"].status == "failed" and "not-an-image: starts with" in told["text <b>.jpg"].decided_by
    assert told["text <b>.jpg"].gates == () and "not decoded, 13 bytes" in tell(told["text <b>.jpg"])[-1]
    assert told["same bytes.jpg"].duplicates == ("same-bytes of photo 0.jpg",)
    assert told["photo 0.jpg"].duplicates == ("same bytes.jpg is same-bytes of photo 0.jpg",)
    assert told["soft 4.png"].reason == "no-patch-kept" and told["soft 4.png"].patches == {"blurry": 6}
    row = images(studio / "strict")["photo 0.jpg"]
    assert told["photo 0.jpg"].decided_by == f"{row['num_kept']} of 6 patches are kept"
    assert sum(told["photo 0.jpg"].patches.values()) == 6 and told["photo 0.jpg"].patches["kept"] == row["num_kept"]
    assert explain(studio / "strict", row["image_sha256"][:8]) == told["photo 0.jpg"]
    uncut = f"{images(studio / 'strict')['tiny.png']['image_sha256'][:20]}_00000_00000_128"
    assert explain(studio / "strict", uncut) == told["tiny.png"]  # a patch that was never cut: its picture says why


def test_explain_knows_expressions_rules_and_purpose(studio, tmp_path):
    choose(studio, tmp_path / "out", "sharpness > 40 and aspect < 3")
    row = next(row for row in rows(tmp_path / "out", "rejected") if row["sharpness"] > 30)
    found = explain(tmp_path / "out", row["key"])
    assert found.decided_by == "the expression is false" and found.reason == "where"
    assert found.where_values == {"sharpness": row["sharpness"], "image_aspect": row["image_aspect"]}
    assert all(gate.passed for gate in found.gates)  # the recipe would have kept it
    kept = explain(tmp_path / "out", rows(tmp_path / "out", "metadata")[0]["key"])
    assert kept.decided_by == "the expression is true" and "where     sharpness > 40 and aspect < 3" in tell(kept)
    shutil.copytree(studio / "strict", tmp_path / "c")
    index = next(i for i in range(9) if rows(studio / "strict", f"rejected/patches-{i:06d}.parquet"))
    table = f"rejected/patches-{index:06d}.parquet"
    edit(tmp_path / "c", table, lambda row: row | {"reason": "near-duplicate"})
    assert (
        explain(tmp_path / "c", rows(tmp_path / "c", table)[0]["key"]).decided_by
        == "no gate, but the rule near-duplicate"
    )
    table = "metadata/patches-000000.parquet"
    edit(tmp_path / "c", table, lambda row: row | {"sharpness": 1.0})
    assert (
        "kept on purpose although sharpness"
        in explain(tmp_path / "c", rows(tmp_path / "c", table)[0]["key"]).decided_by
    )


@pytest.mark.parametrize(
    ("key", "message"),
    [
        ("photo 9.jpg", "nothing called 'photo 9.jpg' in this corpus; near names: photo"),
        ("abc", "nothing called 'abc'"),
        ("0" * 20 + "_00000_00000_128", "no patch 0{20}_00000_00000_128 in .*no picture whose sha256"),
    ],
)
def test_explain_says_when_there_is_nothing(studio, key, message):
    with pytest.raises(ConfigError, match=message):
        explain(studio / "strict", key)


def page_of(corpus: Path) -> str:
    return write_report(corpus).read_text(encoding="utf-8")


def test_the_report_stands_alone_and_escapes_names(studio, tmp_path, program):
    corpus = tmp_path / "strict <i>"
    shutil.copytree(studio / "strict", corpus)
    run = program("curate", "report", corpus)
    assert run.returncode == 0 and "report.html" in run.stdout, run
    page = (corpus / "report.html").read_text()
    assert page == page_of(corpus)  # the same bytes again
    assert "text &lt;b&gt;.jpg" in page and "strict &lt;i&gt;" in page
    assert "<b>.jpg" not in page and "strict <i>" not in page
    urls = re.findall(r"""(?:src|href|url|srcset|action)\s*[=(]\s*["']?([^"')\s>]+)""", page)
    assert urls and all(url.startswith("data:image/jpeg;base64,") for url in urls)
    assert "http" not in re.sub(r"base64,[A-Za-z0-9+/=]+", "", page) and "<script" not in page
    assert page.count("<img ") == len(re.findall(r'<img [^>]*alt="[^"]+"', page))
    assert page.count("<svg ") == page.count("</title>") - 1 >= 5
    assert verify_corpus(corpus).differences == ()  # a page beside the corpus is no part of it


def test_the_report_shows_thresholds_galleries_and_times(studio, tmp_path):
    shutil.copytree(studio / "strict", tmp_path / "c")
    page = page_of(tmp_path / "c")
    assert "sharpness: at least 27" in page and "resolution: at least 200" in page
    assert "Not recorded" in page or "Slowest stage" in page
    (tmp_path / "c" / "ledger" / "times.json").write_text('{"scan": 30.0, "write": 90.5, "x": "odd"}')
    page = page_of(tmp_path / "c")
    assert "Slowest stage: <b>write</b>, 1:30, 75 % of the time" in page and "30.0 s" in page
    assert "tiny.png" in page and "pictures just dropped (never cut into patches)" in page and "and 1 uncut" in page
    inputs = images(tmp_path / "c").values()
    assert f'<tr class="stage"><td>given</td><td>{len(inputs)}</td>' in page
    assert "same-bytes" in page and "not-an-image" in page and "photo 0.jpg" in page
    just_dropped = page[page.index("just dropped: ") :]
    assert len(re.findall("<img ", just_dropped[: just_dropped.index("</article>")])) == 8


def test_moving_a_threshold_is_counted_as_filter_would(studio, tmp_path):
    """The table "what moving it would keep" against the command itself, for gates and for expressions."""
    from curate.report_page import _read
    from curate.reselect import open_corpus

    rules = _read(open_corpus(studio / "strict", reader="report")).rules
    cut = next(cut for cut in rules.cuts if cut.column == "sharpness")
    assert (cut.field, cut.value, cut.keeps_below, cut.inclusive, cut.is_image) == (
        "min_sharpness",
        27.0,
        False,
        True,
        False,
    )
    assert len(cut.values) == 8 and 27.0 in cut.values
    for threshold in cut.values:
        result = choose(studio, tmp_path / "x", f"sharpness >= {threshold!r}", dry_run=True)
        assert int(rules.kept(cut, threshold).sum()) == result.num_kept
    where = "not (sharpness <= 29.5 or flat_area > 0.9)"
    choose(studio, tmp_path / "out", where, source=studio / "photos")
    found = _read(open_corpus(tmp_path / "out", reader="report"))
    assert np.array_equal(found.rules.kept(), found.kept)
    assert [(c.column, c.keeps_below, c.inclusive) for c in found.rules.cuts if c.gate == "where"] == [
        ("sharpness", False, False),
        ("flat_area", True, True),
    ]
    sharp = next(c for c in found.rules.cuts if c.column == "sharpness")
    for threshold in (*sharp.values, 31.25):
        moved = choose(studio, tmp_path / "x", where.replace("29.5", repr(threshold)), dry_run=True)
        assert int(found.rules.kept(sharp, threshold).sum()) == moved.num_kept
    page = page_of(tmp_path / "out")
    assert "chosen again with <code>not (sharpness &lt;= 29.5" in page and "dropped: where" in page


def test_a_report_of_an_expression_lists_what_it_dropped(studio, tmp_path):
    choose(studio, tmp_path / "out", f"sharpness > {sharpest(studio, 12)!r}")
    page = page_of(tmp_path / "out")
    section = page[page.index("just dropped: ") :]
    assert "without decoding, so there are no thumbnails" in section[: section.index("</article>")]


def test_only_corpora_are_read(studio, tmp_path):
    (tmp_path / "empty").mkdir()
    for command in (
        lambda p: explain(p, "x"),
        write_report,
        lambda p: choose(studio, tmp_path / "o", "a < 1", corpus=p),
    ):
        with pytest.raises(ManifestError, match=r"holds no manifest\.json"):
            command(tmp_path / "empty")
