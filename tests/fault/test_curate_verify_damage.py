"""Whatever is damaged, lost, exchanged or added: `curate verify` names the file and exits 1, and never shows a traceback."""

import json
import random
import shutil
import tarfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from typer.testing import CliRunner

from curate import BuildShardsConfig, build_shards, verify_corpus
from curate.cli import app
from curate.core import artifacts
from curate.core.errors import ManifestError
from curate.recipes import load_recipe

TAR, OTHER_TAR = "shards/patches-000000.tar", "shards/patches-000001.tar"
TABLE, REJECTED, IMAGES = (
    "metadata/patches-000000.parquet",
    "rejected/patches-000000.parquet",
    "images/part-000000.parquet",
)
UNSEALED = {("versions",), ("funnel", "ignored"), ("funnel", "unpaired")}
"""Parts of manifest.json that nothing else in the corpus tells: only the sha256 in `_SUCCESS` covers them."""


@pytest.fixture(scope="module")
def whole(make_folder, tmp_path_factory) -> Path:
    """Two shards of three pictures, some patches dropped; `_SUCCESS` as older releases wrote it: empty."""
    folder = tmp_path_factory.mktemp("damage")
    recipe = load_recipe("photographs", patch_size_px=128)
    strict = type(recipe)(
        name="strict", measure=recipe.measure, gates=("sharpness",), thresholds={"sharpness": {"min_sharpness": 36.0}}
    )
    config = BuildShardsConfig(
        source=make_folder(folder / "photos", num=6), out=folder / "c", patch_size_px=128, images_per_shard=3, recipe=strict,
        workers=1,
    )  # fmt: skip
    result = build_shards(config)
    assert result.num_shards == 2 and result.num_patches_kept > 4 and result.patch_reasons.get("blurry", 0) > 2, result
    (folder / "c" / "_SUCCESS").write_bytes(b"")
    return folder / "c"


@pytest.fixture
def corpus(whole, tmp_path) -> Path:
    return Path(shutil.copytree(whole, tmp_path / "c"))


def flip(path: Path, at: int, bit: int = 1) -> None:
    data = bytearray(path.read_bytes())
    data[at] ^= bit
    path.write_bytes(bytes(data))


def member(corpus: Path, suffix: str) -> tarfile.TarInfo:
    """The second member of the first shard that ends so; `offset_data` is where its bytes begin."""
    with tarfile.open(corpus / TAR) as tar:
        return [header for header in tar if header.name.endswith(suffix)][1]


def cut(corpus: Path, size: int, end: bytes = b"") -> None:
    path = corpus / TAR
    path.write_bytes(path.read_bytes()[:size] + end)


def swap(first: Path, second: Path) -> None:
    a, b = first.read_bytes(), second.read_bytes()
    first.write_bytes(b)
    second.write_bytes(a)


def index(corpus: Path, change) -> None:
    path = corpus / "index.json"
    value = json.loads(path.read_text())
    change(value)
    path.write_text(json.dumps(value))


def add(corpus: Path, name: str) -> None:
    (corpus / name).parent.mkdir(exist_ok=True)
    shutil.copy(corpus / TABLE, corpus / name)


NOTHING = '{"schema_version": 1, "kind": "corpus"}'
DAMAGE = {
    "a bit of an image": (TAR, lambda c: flip(c / TAR, member(c, ".webp").offset_data + 40)),
    "a bit of a json": (TAR, lambda c: flip(c / TAR, member(c, ".json").offset_data + 9)),
    "a bit of a name in a header": (TAR, lambda c: flip(c / TAR, member(c, ".webp").offset + 3)),
    "a bit of a size in a header": (TAR, lambda c: flip(c / TAR, member(c, ".webp").offset + 130)),
    "a bit of a type in a header": (TAR, lambda c: flip(c / TAR, member(c, ".webp").offset + 156)),
    "a bit of padding": (TAR, lambda c: flip(c / TAR, member(c, ".json").offset_data + member(c, ".json").size + 5)),
    "a bit of the end": (TAR, lambda c: flip(c / TAR, (c / TAR).stat().st_size - 3)),
    "a tar cut in a member": (TAR, lambda c: cut(c, member(c, ".webp").offset_data + 100)),
    "a tar cut in a header": (TAR, lambda c: cut(c, member(c, ".webp").offset + 100)),
    "a tar cut between samples": (TAR, lambda c: cut(c, member(c, ".webp").offset)),
    "a tar cut between samples, and closed": (TAR, lambda c: cut(c, member(c, ".webp").offset, b"\0" * 1024)),
    "a tar cut within a sample": (TAR, lambda c: cut(c, member(c, ".json").offset)),
    "a tar cut within a sample, and closed": (TAR, lambda c: cut(c, member(c, ".json").offset, b"\0" * 1024)),
    "a tar without its end": (TAR, lambda c: cut(c, (c / TAR).stat().st_size - 10240)),
    "an empty tar": (TAR, lambda c: cut(c, 0)),
    "a tar with a byte more": (TAR, lambda c: cut(c, (c / TAR).stat().st_size, b"\0")),
    "a bit of metadata": (TABLE, lambda c: flip(c / TABLE, 200)),
    "a bit of a parquet's footer": (TABLE, lambda c: flip(c / TABLE, (c / TABLE).stat().st_size - 60)),
    "a bit of rejected": (REJECTED, lambda c: flip(c / REJECTED, 200)),
    "a bit of images": (IMAGES, lambda c: flip(c / IMAGES, 200)),
    "a lost tar": (TAR, lambda c: (c / TAR).unlink()),
    "lost metadata": (TABLE, lambda c: (c / TABLE).unlink()),
    "lost rejected": (REJECTED, lambda c: (c / REJECTED).unlink()),
    "lost images": (IMAGES, lambda c: (c / IMAGES).unlink()),
    "a lost index": ("index.json", lambda c: (c / "index.json").unlink()),
    "a folder instead of a tar": (TAR, lambda c: ((c / TAR).unlink(), (c / TAR).mkdir())),
    "shards exchanged": (TAR, lambda c: swap(c / TAR, c / OTHER_TAR)),
    "tables exchanged": (TABLE, lambda c: swap(c / TABLE, c / TABLE.replace("0.p", "1.p"))),
    "kept and dropped exchanged": (TABLE, lambda c: swap(c / TABLE, c / REJECTED)),
    "a bit of the index": ("index.json", lambda c: flip(c / "index.json", 60)),
    "another md5 in the index": ("index.json", lambda c: index(c, lambda v: v["shardlist"][0].update(md5sum="0" * 32))),
    "another name in the index": ("index.json", lambda c: index(c, lambda v: v.update(name="other"))),
    "another kind of index": ("index.json", lambda c: index(c, lambda v: v.update(__kind__="other"))),
    "a shard less in the index": ("index.json", lambda c: index(c, lambda v: v["shardlist"].pop())),
    "an index that is a list": ("index.json", lambda c: (c / "index.json").write_text("[1]")),
    "an index that is no text": ("index.json", lambda c: (c / "index.json").write_bytes(b"\xff\xfe")),
    "a stray tar": ("shards/patches-000099.tar", lambda c: shutil.copy(c / TAR, c / "shards/patches-000099.tar")),
    "a stray table": ("metadata/a/b.parquet", lambda c: add(c, "metadata/a/b.parquet")),
    "a temporary file": ("shards/.tmp-1-x.tar", lambda c: add(c, "shards/.tmp-1-x.tar")),
    "a manifest that is no JSON": ("manifest.json", lambda c: flip(c / "manifest.json", 0)),
    "a manifest that is no text": ("manifest.json", lambda c: flip(c / "manifest.json", 40, 0x80)),
    "an empty manifest": ("manifest.json", lambda c: (c / "manifest.json").write_text("")),
    "a manifest of nothing": ("manifest.json", lambda c: (c / "manifest.json").write_text(NOTHING)),
}  # fmt: skip


@pytest.mark.parametrize("what", DAMAGE)
def test_the_damaged_file_is_named(corpus, what):
    name, damage = DAMAGE[what]
    damage(corpus)
    differences = verify_corpus(corpus).differences
    assert any(line.startswith(f"{name}: ") for line in differences), differences
    if "exchanged" in what:
        assert len({line.partition(":")[0] for line in differences if "sha256 differs" in line}) == 2


def test_exit_codes(corpus):
    runner = CliRunner()
    assert runner.invoke(app, ["verify", str(corpus)]).exit_code == 0
    flip(corpus / TAR, 2000)
    result = runner.invoke(app, ["verify", str(corpus)])
    assert result.exit_code == 1
    assert result.stdout.splitlines()[0].startswith(f"{TAR}: ")
    flip(corpus / TAR, 2000)
    flip(corpus / "manifest.json", 0)
    result = runner.invoke(app, ["verify", str(corpus)])
    assert result.exit_code == 1
    assert result.stdout.startswith("manifest.json: ")


@pytest.mark.parametrize(
    ("lost", "named"), [("_SUCCESS", r"not finished \(no _SUCCESS\)"), ("manifest.json", r"holds no manifest\.json")]
)
def test_what_is_no_finished_corpus_is_refused(corpus, lost, named):
    (corpus / lost).unlink()
    with pytest.raises(ManifestError, match=named):  # one line and exit code 2: tests/unit/test_curate_console.py
        verify_corpus(corpus)


def test_another_release_is_no_damage(corpus):
    manifest = json.loads((corpus / "manifest.json").read_text())
    (corpus / "manifest.json").write_text(json.dumps(manifest | {"schema_version": 99}))
    with pytest.raises(ManifestError, match="schema_version 99, this release reads"):
        verify_corpus(corpus)


def leaves(value, path=()) -> Iterator[tuple]:
    """Paths to every leaf and every key of a JSON value."""
    if isinstance(value, dict):
        for key, item in value.items():
            yield (*path, key)
            yield from leaves(item, (*path, key))
    elif isinstance(value, list):
        for number, item in enumerate(value):
            yield from leaves(item, (*path, number))
    if not isinstance(value, (dict, list)):
        yield path


def changed(value):
    """The same type, another value: what a flipped bit makes of it."""
    if isinstance(value, bool) or value is None:
        return not value
    return value + 1 if isinstance(value, (int, float)) else f"{value[:-1]}{chr(ord(value[-1]) ^ 1)}" if value else "x"


@pytest.mark.parametrize("sealed", [False, True])
def test_every_part_of_the_manifest_is_covered(corpus, sealed):
    path, whole = corpus / "manifest.json", json.loads((corpus / "manifest.json").read_text())
    if sealed:
        artifacts.write_success(corpus)
    assert verify_corpus(corpus).differences == ()
    passed = set()
    places = list(dict.fromkeys(leaves(whole)))
    assert len(places) > 60
    for place in places:
        copy = json.loads(json.dumps(whole))
        *parents, last = place
        owner = copy
        for step in parents:
            owner = owner[step]
        if isinstance(owner[last], (dict, list)):
            owner[f"{last}x"] = owner.pop(last)
        else:
            owner[last] = changed(owner[last])
        path.write_text(json.dumps(copy, indent=2, ensure_ascii=False) + "\n")
        if place == ("schema_version",) and not sealed:
            with pytest.raises(ManifestError, match="schema_version"):
                verify_corpus(corpus)
        elif not any(line.startswith("manifest.json: ") for line in verify_corpus(corpus).differences):
            passed.add(place)
    expected = set() if sealed else {place for place in places if place[:1] in UNSEALED or place[:2] in UNSEALED}
    assert passed <= expected, passed - expected


def test_random_bits(corpus):
    """One bit anywhere: the file it is in is named, nothing is raised."""
    artifacts.write_success(corpus)
    files = [p for p in sorted(corpus.rglob("*")) if p.is_file() and "ledger" not in p.parts and p.name != "_SUCCESS"]
    rng = random.Random(0)
    for path in [*files, *rng.choices(files, k=40)]:
        at, bit = rng.randrange(path.stat().st_size), 1 << rng.randrange(8)
        flip(path, at, bit)
        name = path.relative_to(corpus).as_posix()
        differences = verify_corpus(corpus).differences
        assert any(line.startswith(f"{name}: ") for line in differences), (name, at, bit, differences)
        flip(path, at, bit)
    assert verify_corpus(corpus).differences == ()
