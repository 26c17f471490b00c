"""`compare` and `report` on subsets of a small corpus: what they say, what they refuse, that the page stands alone."""

import hashlib
import json
import math
import re
import shutil
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path

import cv2
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from curate import BuildShardsConfig, build_shards, open_dataset, read_shard
from curate.core.errors import ConfigError, ManifestError
from curate.core.images import decode_patch
from curate.recipes import load_recipe
from curate.shards import ShardWriter
from distill import SelectConfig, select
from distill.comparison import CompareConfig, compare, table
from distill.opened import features_of
from distill.report_page import ReportConfig, report

NASTY = "a<b>&\"c'.png"  # a file name that would break a page


@pytest.fixture(scope="module", name="corpus")
def _corpus(make_folder, tmp_path_factory) -> Path:
    root = tmp_path_factory.mktemp("report")
    pictures = make_folder(root / "pictures")
    (pictures / "photo 3.png").rename(pictures / NASTY)
    build_shards(
        BuildShardsConfig(
            source=pictures,
            out=root / "corpus",
            recipe=load_recipe("everything", patch_size_px=96),
            patch_size_px=96,
            workers=1,
        )
    )
    return root / "corpus"


def _select(corpus: Path, out: Path, **values: object) -> Path:
    plain = {"encoder": "handcrafted", "complexity": "gradient", "budget": "25%", "workers": 1}
    select(SelectConfig(corpus=corpus, out=out, **(plain | values)))  # type: ignore[arg-type]
    return out


@pytest.fixture(scope="module", name="subset")
def _subset(corpus: Path) -> Path:
    return _select(corpus, corpus.parent / "strat")


@pytest.fixture(scope="module", name="top")
def _top(corpus: Path) -> Path:
    return _select(corpus, corpus.parent / "top", selector="top")


class Page(HTMLParser):
    """Collects what a page would load, its text, and whether its tags are balanced."""

    VOID = ("meta", "img", "br", "hr", "input", "link")

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.open: list[str] = []
        self.loads: list[str] = []
        self.seen: list[tuple[str, str]] = []
        self.words: list[str] = []
        self.feed(path.read_text())
        assert self.open == []

    @property
    def text(self) -> str:
        return " ".join(" ".join(self.words).split())

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.seen.append((tag, dict(attrs).get("class") or ""))
        self.loads += [value or "" for name, value in attrs if name in ("src", "href", "srcset", "xlink:href", "data")]
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.handle_starttag(tag, attrs)
        if tag not in self.VOID:
            self.open.pop()

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self.open and self.open[-1] not in ("style", "title"):
            self.words.append(data)


def _hashes(root: Path) -> dict[str, str]:
    return {
        str(p.relative_to(root)): hashlib.sha256(p.read_bytes()).hexdigest()
        for p in sorted(root.rglob("*"))
        if p.is_file()
    }


def test_the_page_stands_alone_and_changes_nothing_of_the_subset(subset):
    before = _hashes(subset)
    page = report(ReportConfig(subset=subset))
    once = page.read_bytes()
    assert page == subset / "report.html" and report(ReportConfig(subset=subset)).read_bytes() == once
    assert {name: value for name, value in _hashes(subset).items() if name != "report.html"} == before
    html, text = Page(page), once.decode()
    assert html.loads and all(load.startswith("data:image/jpeg;base64,") for load in html.loads)
    assert not re.search(r"<script|@import|url\(|https?://", text)
    assert "prefers-color-scheme: dark" in text and 'name="viewport"' in text


def test_the_page_says_what_is_in_the_manifest_and_tables(subset):
    html, manifest = Page(report(ReportConfig(subset=subset))), open_dataset(subset).manifest
    got, available = manifest["budget"]["got"], manifest["budget"]["available"]
    for part in (f"{got} of the {available} patches", "strat_fl", "gradient", manifest["content_hash"], "budget 25%"):
        assert part in html.text
    tiles = [kind for tag, kind in html.seen if tag == "figure" and kind.startswith("stage")]
    assert len(tiles) == got and tiles == sorted(tiles), "simplest first"
    rows = pq.read_table(subset / "selection.parquet").sort_by("complexity").column("complexity").to_pylist()
    positions = [html.text.index(f" {value:.3f} ") for value in rows]
    assert positions == sorted(positions)
    available_of = [int(n) for n in re.findall(r"\d\.\d{3} to \d\.\d{3} (\d+) ", html.text)]
    left_out = re.search(r"the most complex (\d+)", html.text)
    assert sum(available_of) + int(left_out[1] if left_out else 0) == available


def test_names_are_escaped(corpus, tmp_path):
    out = _select(corpus, tmp_path / "<i>&mp;", budget="100%", selector="random")
    text = report(ReportConfig(subset=out, gallery_patches=1000)).read_text()
    html = Page(out / "report.html")
    assert NASTY in html.text and "<i>&mp;" in html.text
    assert "a<b>" not in text and "<i>&" not in text


@pytest.mark.parametrize(("budget", "unbiased"), [("1", "-"), ("2", None), ("100%", None)])
def test_the_smallest_and_the_largest_subset(corpus, tmp_path, budget, unbiased):
    html = Page(report(ReportConfig(subset=_select(corpus, tmp_path / "s", budget=budget))))
    found = re.search(r"unbiased biased this subset (\S+) (\S+)", html.text)
    assert found is not None and (found[1] == "-") == (unbiased == "-")
    assert ("random subsets of this size are less like" in html.text) == (budget == "2")
    assert "nan" not in html.text.lower().split()


def test_the_page_goes_where_it_is_asked_to(subset, tmp_path):
    (subset / "report.html").unlink(missing_ok=True)
    assert report(ReportConfig(subset=subset, out=tmp_path / "elsewhere" / "page.html")).is_file()
    assert not (subset / "report.html").exists()


def test_what_cannot_be_reported_is_refused_in_one_line(corpus, subset, tmp_path):
    with pytest.raises(ConfigError, match=r"is a corpus, wanted a subset"):
        report(ReportConfig(subset=corpus))
    copy = shutil.copytree(subset, tmp_path / "copy")
    shutil.rmtree(copy / "features")
    with pytest.raises(ManifestError, match="the features of the corpus are needed"):
        report(ReportConfig(subset=copy))
    (copy / "_SUCCESS").unlink()
    with pytest.raises(ManifestError, match="not finished"):
        report(ReportConfig(subset=copy))
    with pytest.raises(ConfigError, match="layout"):
        ReportConfig(subset=subset, layout="map")
    with pytest.raises(ConfigError, match="gallery_patches must be >= 1"):
        ReportConfig(subset=subset, gallery_patches=0)


def _calibrate(subset: Path, levels: float) -> None:
    """Rewrite a subset as a calibration would: 16-bit PNG, all pixels a little brighter, and say so in the manifest."""
    manifest = json.loads((subset / "manifest.json").read_text())
    for shard in (shard for group in manifest["stages"].values() for shard in group):
        samples = list(read_shard(subset / shard["file"]))
        with ShardWriter(subset / shard["file"]) as writer:
            for sample in samples:
                pixels = decode_patch(sample.image()[1]).astype(np.float64)
                deep = np.clip(np.round((pixels + levels) * 257), 0, 65535).astype(np.uint16)
                data = cv2.imencode(".png", deep[..., ::-1])[1].tobytes()
                writer.add(sample.key, {"png": data, "json": sample.members["json"]})
    mmd2 = {"before": 0.1234, "after": 0.0567, "null_mean": 0.001, "null_std": 0.002}
    record = {
        "mode": "cnn",
        "accepted": True,
        "reason": "it fell <far>",
        "mmd2": mmd2,
        "fit": {"history": [[0, 0.1], [9, 0.05]]},
    }
    manifest |= {"depth": 16, "calibration": record}
    (subset / "manifest.json").write_text(json.dumps(manifest))


def test_calibrated_patches_stand_beside_their_originals(corpus, subset, tmp_path):
    copy = shutil.copytree(subset, tmp_path / "copy")
    _calibrate(copy, 1.5)
    ledger = json.loads((copy / "ledger" / "select.json").read_text())
    (copy / "ledger" / "select.json").write_text(json.dumps(ledger | {"corpus_path": str(tmp_path / "gone")}))
    text = Page(report(ReportConfig(subset=copy))).text
    assert "accepted ; it fell <far>" in text.replace("accepted;", "accepted ;") and "123.4" in text and "56.7" in text
    assert "The corpus is not at hand" in text
    html = Page(report(ReportConfig(subset=copy, corpus=corpus, changes_shown=3)))
    assert len([kind for _, kind in html.seen if kind == "changes"]) == 3
    assert "at most 1.5 levels" in html.text and "PSNR 44.6 dB" in html.text  # 10 log10(255^2 / 1.5^2)
    (copy / "ledger" / "select.json").write_text(json.dumps(ledger | {"corpus_path": str(corpus)}))
    assert "at most 1.5 levels" in Page(report(ReportConfig(subset=copy))).text


def test_another_corpus_is_no_original(subset, tmp_path, corpus):
    copy, other = shutil.copytree(subset, tmp_path / "copy"), shutil.copytree(corpus, tmp_path / "corpus")
    _calibrate(copy, 1.0)
    manifest = json.loads((other / "manifest.json").read_text()) | {"content_hash": "0" * 64}
    (other / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(ManifestError, match="is not the corpus that"):
        report(ReportConfig(subset=copy, corpus=other))


def test_sampling_weights_move_the_weighted_distance(subset, tmp_path):
    copy = shutil.copytree(subset, tmp_path / "copy")
    assert compare(CompareConfig(subsets=(copy,))).subsets[0].mmd2_weighted is None
    rows = pq.read_table(copy / "selection.parquet")
    weights = pa.array(np.linspace(0.1, 2, rows.num_rows))
    pq.write_table(
        rows.set_column(rows.schema.get_field_index("weight"), "weight", weights), copy / "selection.parquet"
    )
    one = compare(CompareConfig(subsets=(copy,))).subsets[0]
    assert one.mmd2_weighted is not None and one.mmd2_weighted != one.mmd2_biased
    assert "with its sampling weights" in Page(report(ReportConfig(subset=copy))).text


def _make_pairs(subset: Path) -> None:
    """Write the features again as those of pairs: a cache in one piece, 15 descriptors, rows of the degraded members."""
    manifest = json.loads((subset / "manifest.json").read_text())
    known, folder = features_of(open_dataset(subset)), subset / "features" / "pairs"
    folder.mkdir()
    rows, rng = np.asarray(known.rows, dtype=np.float16), np.random.default_rng(0)
    np.save(folder / "rows.npy", rows)
    np.save(folder / "degraded_rows.npy", rows + rng.normal(0, rows.std(), rows.shape).astype(np.float16))
    columns = {"key": known.keys.astype(object), "score.gradient": known.complexity}
    columns |= {"group": known.photographs()}
    columns |= {f"descriptor.{number}": rng.normal(0, 1, len(rows)).astype(np.float32) for number in range(15)}
    pq.write_table(pa.table(columns), folder / "table.parquet")
    (folder / "key.json").write_text(json.dumps({"complexities": ["gradient"]}))
    (folder / "_SUCCESS").write_bytes(b"")
    (subset / "manifest.json").write_text(json.dumps(manifest | {"features": "features/pairs"}))


def test_of_pairs_the_degraded_members_are_measured_too(subset, tmp_path):
    copy = shutil.copytree(subset, tmp_path / "copy")
    before = compare(CompareConfig(subsets=(copy,))).subsets[0]
    _make_pairs(copy)
    result = compare(CompareConfig(subsets=(copy,)))
    one = result.subsets[0]
    assert before.mmd2_degraded is None and one.mmd2_degraded is not None
    assert one.mmd2 == pytest.approx(before.mmd2, abs=1e-3) and one.mmd2_degraded != one.mmd2
    assert "degraded members" in table(result) and "degraded members" not in table(
        compare(CompareConfig(subsets=(subset,)))
    )
    assert "its degraded members" in Page(report(ReportConfig(subset=copy))).text


def test_compare_measures_each_and_all(corpus, subset, top, tmp_path):
    everything = _select(corpus, tmp_path / "all", budget="100%", selector="random")
    result = compare(CompareConfig(subsets=(subset, top, everything)))
    strat, highest, whole = result.subsets
    available = open_dataset(subset).manifest["budget"]["available"]
    assert (result.num_available, whole.num, whole.num_groups) == (available, available, result.num_groups)
    assert (whole.mmd2_biased, whole.coverage, whole.nearest_p95, whole.shift_mean) == (0.0, 1.0, 0.0, 0.0)
    assert whole.complexity == result.complexity and strat.mmd2 < highest.mmd2 and strat.coverage > highest.coverage
    assert highest.tenths[-1] == max(highest.tenths) and sum(strat.tenths) == pytest.approx(1)
    keys = [
        set(pq.read_table(path / "selection.parquet").column("key").to_pylist()) for path in (subset, top, everything)
    ]
    for i, one in enumerate(keys):
        for j, other in enumerate(keys):
            assert result.overlap[i][j] == pytest.approx(len(one & other) / len(one | other), abs=1e-9)
    assert result == compare(CompareConfig(subsets=(subset, top, everything)))
    values = json.loads(json.dumps(result.to_json(), allow_nan=False))
    assert values["subsets"][1]["selector"] == "top" and len(values["quantiles"]) == len(values["complexity"])


def test_the_table_is_for_a_terminal(subset, top):
    text = table(compare(CompareConfig(subsets=(subset, top))))
    lines = text.splitlines()
    assert max(map(len, lines)) <= 140 and "\t" not in text
    assert [line.split()[0] for line in lines if line.startswith(("strat", "top"))] == ["strat", "top"] * 3
    alone = table(compare(CompareConfig(subsets=(subset,))))
    assert "strat" in alone and "shared" not in alone


def test_one_feature_cache_is_enough(subset, top, tmp_path):
    bare = shutil.copytree(top, tmp_path / "top")
    shutil.rmtree(bare / "features")
    once, again = (compare(CompareConfig(subsets=(subset, path))) for path in (top, bare))
    assert [one.mmd2 for one in once.subsets] == [one.mmd2 for one in again.subsets]
    with pytest.raises(ManifestError, match="is missing: the features"):
        compare(CompareConfig(subsets=(bare,)))


@pytest.mark.parametrize(
    ("change", "line"),
    [
        ({"corpus_content_hash": "f" * 64}, "is a subset of another corpus"),
        ({"encoder": {"name": "vit_s14", "label": "ViT", "weights_sha256": ""}}, "was seen by another encoder"),
    ],
)
def test_subsets_that_cannot_be_compared_are_refused(subset, top, tmp_path, change, line):
    other = shutil.copytree(top, tmp_path / "other")
    manifest = json.loads((other / "manifest.json").read_text()) | change
    (other / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(ConfigError, match=line):
        compare(CompareConfig(subsets=(subset, other)))


def test_a_patch_that_no_feature_describes_is_refused(subset, tmp_path):
    copy = shutil.copytree(subset, tmp_path / "copy")
    rows = pq.read_table(copy / "selection.parquet")
    keys = pa.array(["0" * 20 + "_00000_00000_96", *rows.column("key").to_pylist()[1:]])
    pq.write_table(rows.set_column(0, "key", keys), copy / "selection.parquet")
    with pytest.raises(ManifestError, match="the features of its corpus do not hold it"):
        compare(CompareConfig(subsets=(copy,)))


def test_nothing_to_compare_is_refused():
    with pytest.raises(ConfigError, match="at least one subset"):
        CompareConfig(subsets=())
    with pytest.raises(ConfigError, match="max_rows must be >= 1"):
        CompareConfig(subsets=(Path("a"),), max_rows=0)


def test_a_sampled_corpus_gives_finite_numbers(subset):
    one = compare(CompareConfig(subsets=(subset,), max_rows=20)).subsets[0]
    assert one.coverage_null is None and all(
        math.isfinite(value) for value in (one.mmd2, one.coverage, one.nearest_mean)
    )
    assert "evenly spaced patches stand for the corpus" in table(compare(CompareConfig(subsets=(subset,), max_rows=20)))


def test_neither_loads_torch(subset):
    code = (
        "import sys; from pathlib import Path; from distill.report_page import *; from distill.comparison import *; "
        f"p = Path({str(subset)!r}); report(ReportConfig(subset=p)); table(compare(CompareConfig(subsets=(p,)))); "
        "print([name for name in ('torch', 'sklearn', 'matplotlib') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-W", "error", "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]" and done.stderr == ""
