"""Pictures in, restored pictures out: every bit and remark kept, damage told, folders resumed, broken runs refused."""

from __future__ import annotations

import io
import json
import os
import pickle
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image, ImageCms, PngImagePlugin
from safetensors.torch import save_file

from curate.core.errors import ConfigError, DecodeError, ManifestError, NumericsError
from restoration import RestoreConfig, restore
from restoration.models import make_model
from restoration.picture_files import decode_picture
from restoration.restorer import TilingConfig

XMP = b'<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:Description tiff:Orientation="6" dc:title="Harbour"/></x:xmpmeta>'


@pytest.fixture(scope="module")
def same(make_run, tmp_path_factory) -> Path:
    return make_run(tmp_path_factory.mktemp("same"))


def run(run: Path, source: Path, out: Path, **more):
    return restore(RestoreConfig(run=run, source=source, out=out, device="cpu", **more))


def deep(seed: int = 0, channels: int = 3) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 65536, (37, 53, channels), np.uint16)


def write_cv2(path: Path, image: np.ndarray) -> Path:
    order = {1: None, 3: cv2.COLOR_RGB2BGR, 4: cv2.COLOR_RGBA2BGRA}[image.shape[2]]
    cv2.imwrite(str(path), image if order is None else cv2.cvtColor(image, order))
    return path


@pytest.mark.parametrize("suffix", ["png", "tif"])
@pytest.mark.parametrize("channels", [1, 3, 4])
def test_sixteen_bits_grey_and_alpha_survive(same, tmp_path, suffix, channels):
    source = write_cv2(tmp_path / "in.png", deep(channels=channels))
    if suffix == "tif":  # OpenCV writes no alpha that says so
        (source,) = run(same, source, tmp_path / "in.tif").written
    (out,) = run(same, source, tmp_path / "out").written
    assert out.name == f"in.{suffix}"
    found = cv2.imread(str(out), cv2.IMREAD_UNCHANGED)
    np.testing.assert_array_equal(found, cv2.imread(str(source), cv2.IMREAD_UNCHANGED))
    assert found.dtype == np.uint16


@pytest.mark.parametrize("mode", ["L", "LA", "RGB", "RGBA"])
@pytest.mark.parametrize("suffix", ["png", "tiff", "webp"])
def test_eight_bits_and_alpha_survive_in_every_format(same, tmp_path, make_photo, mode, suffix):
    image = Image.fromarray(make_photo(0, 41, 67)).convert(mode)
    if "A" in mode:
        image.putalpha(Image.fromarray(make_photo(1, 41, 67)[..., 0]))
    image.save(tmp_path / "in.png")
    (out,) = run(same, tmp_path / "in.png", tmp_path / f"out.{suffix}").written
    with Image.open(out) as found:
        wanted = (
            {"L": "RGB", "LA": "RGBA"}.get(mode, mode) if suffix == "webp" or (suffix, mode) == ("tiff", "LA") else mode
        )
        assert found.mode == wanted
        np.testing.assert_array_equal(np.asarray(found), np.asarray(image.convert(wanted)))


@pytest.mark.parametrize("suffix", ["png", "tif", "webp", "jpg"])
def test_what_a_photograph_says_of_itself_is_kept(same, tmp_path, make_photo, suffix):
    exif = Image.Exif()
    exif[0x0112], exif[0x010F], exif[0x8298] = 6, "Ours", "© us".encode()
    exif.get_ifd(0x8769).update({0x829A: 0.01, 0x9003: "2026:01:02 03:04:05", 0xA002: 99})
    exif.get_ifd(0x8825).update({1: "N", 2: (47.0, 22.0, 1.5)})
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    photo = make_photo(0, 40, 64)
    Image.fromarray(photo).save(
        tmp_path / "in.jpg", exif=exif, icc_profile=profile, xmp=XMP, dpi=(300, 300), quality=95, subsampling=0
    )
    (out,) = run(same, tmp_path / "in.jpg", tmp_path / f"out.{suffix}").written
    with Image.open(out) as found:
        assert found.size == (40, 64), "turned upright"
        assert found.info["icc_profile"] == profile
        kept = found.getexif()
        assert (kept[282] if suffix == "webp" else found.info["dpi"][0]) == pytest.approx(300, abs=0.1)
        assert (kept[0x010F], kept[0x8298], kept.get(0x0112, 1)) == ("Ours", "© us".encode().decode("latin-1"), 1)
        camera, position = kept.get_ifd(0x8769), kept.get_ifd(0x8825)
        assert float(camera[0x829A]) == pytest.approx(0.01) and camera[0x9003] == "2026:01:02 03:04:05"
        assert 0xA002 not in camera and position[1] == "N" and float(position[2][2]) == 1.5
        xmp = found.info["xmp"]
        assert b'dc:title="Harbour"' in xmp and b'tiff:Orientation="1"' in xmp
        expected = np.rot90(np.asarray(Image.open(tmp_path / "in.jpg")), -1).astype(int)
        assert np.abs(np.asarray(found.convert("RGB")) - expected).max() <= (8 if suffix == "jpg" else 0)


def test_colours_that_mean_something_else_become_srgb_and_say_so(same, tmp_path, make_photo):
    Image.fromarray(make_photo(0, 24, 24)).convert("CMYK").save(tmp_path / "inks.jpg")
    linear = PngImagePlugin.PngInfo()
    linear.add(b"gAMA", (100_000).to_bytes(4, "big"))
    Image.fromarray(np.full((24, 24, 3), 55, np.uint8)).save(tmp_path / "linear.png", pnginfo=linear)
    for name in ("inks.jpg", "linear.png"):
        (out,) = run(same, tmp_path / name, tmp_path / "out").written
        with Image.open(out) as found:
            assert found.mode == "RGB"
            mean = np.asarray(found).mean()
            described = ImageCms.getProfileDescription(ImageCms.ImageCmsProfile(io.BytesIO(found.info["icc_profile"])))
            assert "sRGB" in described
    assert mean == pytest.approx(128, abs=1)  # 55 / 255 of linear light


def test_a_profile_of_grey_goes_with_grey_only(same, tmp_path):
    """Linear light in grey: kept in a PNG, applied where the format has RGB alone."""
    image = np.full((16, 16), 55, np.uint8)
    Image.fromarray(image).save(tmp_path / "in.png", icc_profile=linear_grey_profile())
    for suffix, mode, value in (("png", "L", 55), ("tif", "L", 55), ("webp", "RGB", 128)):
        (out,) = run(same, tmp_path / "in.png", tmp_path / f"out.{suffix}").written
        with Image.open(out) as found:
            assert found.mode == mode and abs(int(np.asarray(found).flat[0]) - value) <= 1, suffix
            space = ImageCms.ImageCmsProfile(io.BytesIO(found.info["icc_profile"])).profile.xcolor_space.strip()
            assert space == {"L": "GRAY", "RGB": "RGB"}[mode]


def linear_grey_profile() -> bytes:
    """Write the smallest grey display profile: a white point and a curve of gamma 1."""
    white = b"XYZ " + bytes(4) + b"".join(int(v * 65536).to_bytes(4, "big") for v in (0.9642, 1.0, 0.8249))
    curve = b"curv" + bytes(4) + bytes(4)
    text = b"desc" + bytes(4) + (7).to_bytes(4, "big") + b"linear\0" + bytes(78)
    tags, body = b"", b""
    start = 128 + 4 + 12 * 3
    for name, content in ((b"wtpt", white), (b"kTRC", curve), (b"desc", text)):
        content += bytes(-len(content) % 4)
        tags += name + (start + len(body)).to_bytes(4, "big") + len(content).to_bytes(4, "big")
        body += content
    head = bytearray(128)
    head[0:4] = (start + len(body)).to_bytes(4, "big")
    head[8:12], head[12:24], head[36:40] = b"\x02\x40\0\0", b"mntrGRAYXYZ ", b"acsp"
    head[68:80] = white[8:]
    return bytes(head) + (3).to_bytes(4, "big") + tags + body


def test_a_grey_picture_comes_back_grey_even_as_rgb(make_run, tmp_path, make_photo):
    odd = make_run(tmp_path / "odd", change=0.05)
    grey = make_photo(0, 40, 40)[..., :1]
    Image.fromarray(grey.repeat(3, axis=2)).save(tmp_path / "in.png")
    (out,) = run(odd, tmp_path / "in.png", tmp_path / "out.png").written
    found = np.asarray(Image.open(out))
    assert (found == found[..., :1]).all() and (found[..., :1] != grey).any()


def test_formats_follow_the_name_the_flag_and_the_input(same, tmp_path, make_photo):
    folder = tmp_path / "in"
    folder.mkdir()
    for suffix in ("jpg", "png", "webp", "tif", "bmp"):
        Image.fromarray(make_photo(0, 16, 24)).save(folder / f"{suffix}.{suffix}")
    names = [path.name for path in run(same, folder, tmp_path / "a").written]
    assert names == ["bmp.png", "jpg.png", "png.png", "tif.tif", "webp.webp"]
    names = [path.name for path in run(same, folder, tmp_path / "b", format="jpeg").written]
    assert names == ["bmp.jpg", "jpg.jpg", "png.jpg", "tif.jpg", "webp.jpg"]
    for wrong in ({"out": tmp_path / "x.gif"}, {"out": tmp_path / "x.png", "format": "tiff"}):
        with pytest.raises(ConfigError, match="output"):
            run(same, folder / "jpg.jpg", **wrong)
    with pytest.raises(ConfigError, match="format must be one of"):
        run(same, folder, tmp_path / "c", format="gif")


def test_a_folder_resumes_tells_damage_and_refuses_other_settings(same, make_run, tmp_path, make_photo):
    folder, out = tmp_path / "in", tmp_path / "out"
    (folder / "sub").mkdir(parents=True)
    for name in ("a.png", "sub/b.png", "c.png"):
        Image.fromarray(make_photo(0, 20, 20)).save(folder / name)
    (folder / "cut.jpg").write_bytes(b"\xff\xd8\xff nothing")
    first = run(same, folder, out)
    assert [path.relative_to(out).as_posix() for path in first.written] == ["a.png", "c.png", "sub/b.png"]
    assert [name for name, _ in first.failed] == ["cut.jpg"] and first.num_skipped == 0
    (out / "c.png").unlink()
    times = {name: (out / name).stat().st_mtime_ns for name in ("a.png", "sub/b.png")}
    Image.fromarray(make_photo(3, 20, 20)).save(folder / "a.png")
    with (out / "restored.jsonl").open("a") as file:
        file.write('{"name": "c')  # a kill in the middle of a line
    second = run(same, folder, out)
    assert second.num_skipped == 1 and second.written == first.written
    assert (out / "sub/b.png").stat().st_mtime_ns == times["sub/b.png"] and (out / "a.png").stat().st_mtime_ns != times[
        "a.png"
    ]
    np.testing.assert_array_equal(np.asarray(Image.open(out / "a.png")), np.asarray(Image.open(folder / "a.png")))
    assert len((out / "restored.jsonl").read_text().splitlines()) == 1 + 3 + 2
    for change in ({"self_ensemble": True}, {"format": "webp"}):
        with pytest.raises(ConfigError, match="made with other settings"):
            run(same, folder, out, **change)
    other = make_run(tmp_path / "other", change=0.01)
    with pytest.raises(ConfigError, match="weights_sha256"):
        run(other, folder, out)
    with pytest.raises(ConfigError, match="already holds other files"):
        run(same, folder, tmp_path / "other")
    assert not list(out.rglob(".tmp-*"))


def test_a_kill_leaves_no_half_file(same, tmp_path, make_photo):
    """The process dies while the first picture is being written; the same command then finishes."""
    folder, out = tmp_path / "in", tmp_path / "out"
    folder.mkdir()
    for name in ("a.png", "b.png"):
        Image.fromarray(make_photo(0, 30, 30)).save(folder / name)
    code = f"""
import os, restoration.picture_writers as writers
from restoration import RestoreConfig, restore
from pathlib import Path
def write(file, picture):
    file.write(b"half"); file.flush(); os._exit(9)
writers._WRITERS = {{"png": write}}
restore(RestoreConfig(run=Path({str(same)!r}), source=Path({str(folder)!r}), out=Path({str(out)!r}), device="cpu"))
"""
    killed = subprocess.run([sys.executable, "-P", "-c", code], capture_output=True, text=True, check=False)
    assert killed.returncode == 9, killed.stderr
    assert [path.name for path in out.rglob("*.png") if not path.name.startswith(".tmp-")] == []
    assert len(list(out.glob(".tmp-*a.png"))) == 1
    result = run(same, folder, out)
    assert len(result.written) == 2 and result.num_skipped == 0 and not list(out.rglob(".tmp-*"))


def test_patches_of_a_dataset(same, tmp_path, make_photo):
    from curate.shards import ShardWriter

    root = tmp_path / "corpus"
    (root / "shards").mkdir(parents=True)
    image = make_photo(0, 16, 16)
    data = io.BytesIO()
    Image.fromarray(image).save(data, "PNG")
    _, sixteen = cv2.imencode(".png", deep()[..., ::-1])
    _, other = cv2.imencode(".png", image[::-1, :, ::-1])
    writer = ShardWriter(root / "shards/patches-000000.tar")
    writer.add("one_0", {"png": data.getvalue(), "json": b"{}"})
    writer.add("two_0", {"gt.png": other.tobytes(), "lq.png": data.getvalue(), "json": b"{}"})
    writer.add("six_0", {"png": sixteen.tobytes(), "json": b"{}"})
    digest = writer.close()
    row = {"file": "shards/patches-000000.tar", "metadata": "", "metadata_sha256": ""}
    row |= {name: getattr(digest, name) for name in digest.__slots__}
    (root / "manifest.json").write_text(
        json.dumps({"schema_version": 1, "kind": "corpus", "content_hash": "x", "shards": [row]})
    )
    (root / "_SUCCESS").write_text("")
    result = run(same, root, tmp_path / "out")
    assert [path.name for path in result.written] == ["one_0.png", "two_0.png", "six_0.png"] and not result.failed
    for path, expected in zip(result.written, (image, image, deep()), strict=True):
        np.testing.assert_array_equal(decode_picture(path.read_bytes()).colour, expected)
    assert run(same, root, tmp_path / "out").num_skipped == 3


def test_memory_that_does_not_suffice_is_told_before_decoding(same, tmp_path, monkeypatch):
    Image.new("RGB", (3000, 2000)).save(tmp_path / "in.png")
    monkeypatch.setattr("restoration.inference.decode_picture", lambda *_: pytest.fail("decoded"))
    with pytest.raises(ConfigError, match=r"3000x2000 .* raise --max-memory"):
        run(same, tmp_path / "in.png", tmp_path / "out.png", max_memory="100MB")
    with pytest.raises(ConfigError, match="must be a size"):
        run(same, tmp_path / "in.png", tmp_path / "out.png", max_memory="lots")


class Bomb:
    """Unpickling it would leave a file behind."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self):
        return os.system, (f"touch {self.path}",)


def broken_runs(root: Path, make_run) -> dict[str, Path]:
    """Make runs whose checkpoint is damaged, of another network, or a trap."""
    runs = {}
    weights = "checkpoints/step-00000001.safetensors"
    for name in (
        "cut",
        "noise",
        "pickle",
        "pickle-pt",
        "elsewhere",
        "other-network",
        "no-network",
        "nan",
        "no-config",
        "unknown",
    ):
        runs[name] = make_run(root / name)
    whole = (runs["cut"] / weights).read_bytes()
    (runs["cut"] / weights).write_bytes(whole[:-200])
    (runs["noise"] / weights).write_bytes(np.random.default_rng(0).bytes(5000))
    trap = pickle.dumps(Bomb(root / "ran"))
    (runs["pickle"] / weights).write_bytes(trap)
    (runs["pickle-pt"] / "checkpoints/evil.pt").write_bytes(trap)
    for name, named in (("pickle-pt", "evil.pt"), ("elsewhere", "../../cut/" + weights)):
        pointer = json.loads((runs[name] / "checkpoints/last.json").read_text()) | {"weights": named}
        (runs[name] / "checkpoints/last.json").write_text(json.dumps(pointer))
    model = make_model("tiny")
    good = {f"ema.{key}": value.clone() for key, value in model.state_dict().items()}
    labels = {"model": "tiny", "config": '{"channels": 8}', "step": "1"}
    for name, tensors, metadata in (
        ("other-network", good, labels | {"model": "dynet-tiny", "config": "{}"}),
        ("no-network", good, {}),
        ("nan", {key: value * float("nan") for key, value in good.items()}, labels),
        ("no-config", good, labels | {"config": "channels"}),
        ("unknown", good, labels | {"model": "os.system"}),
    ):
        save_file(tensors, str(runs[name] / weights), metadata=metadata)
    return runs


def test_broken_runs_are_refused_and_nothing_of_them_is_executed(make_run, tmp_path, make_photo):
    from restoration.exporting import ExportConfig, export
    from restoration.server import ServeConfig, serve

    Image.fromarray(make_photo(0, 16, 16)).save(tmp_path / "in.png")
    for name, broken in broken_runs(tmp_path, make_run).items():
        expected = NumericsError if name == "nan" else ManifestError
        with pytest.raises(expected) as told:
            run(broken, tmp_path / "in.png", tmp_path / "out.png")
        assert str(broken) in str(told.value) or name == "nan", (name, told.value)
        if name != "nan":
            with pytest.raises(ManifestError):
                export(ExportConfig(run=broken, out=tmp_path / "export", format="safetensors"))
            with pytest.raises(ManifestError):
                serve(ServeConfig(run=broken, port=0))
    assert (
        not (tmp_path / "ran").exists() and not (tmp_path / "out.png").exists() and not (tmp_path / "export").exists()
    )
    with pytest.raises(ConfigError, match="not a RUN"):
        run(tmp_path / "nowhere", tmp_path / "in.png", tmp_path / "out.png")


def test_a_broken_run_is_one_line(make_run, program, tmp_path, make_photo):
    Image.fromarray(make_photo(0, 16, 16)).save(tmp_path / "in.png")
    broken = make_run(tmp_path / "run")
    (broken / "checkpoints/step-00000001.safetensors").write_bytes(pickle.dumps(Bomb(tmp_path / "ran")))
    for command in (["restore", broken, tmp_path / "in.png", tmp_path / "out.png"], ["export", broken, tmp_path / "e"]):
        result = program("restoration", *command)
        assert result.returncode == 2 and len(result.stderr.strip().splitlines()) == 1, result.stderr
        assert "cannot read" in result.stderr
    assert not (tmp_path / "ran").exists()


def test_one_damaged_picture_is_named(same, tmp_path):
    (tmp_path / "in.png").write_bytes(b"\x89PNG\r\n\x1a\nnothing")
    with pytest.raises(DecodeError, match=r"in\.png"):
        run(same, tmp_path / "in.png", tmp_path / "out.png")
    assert not (tmp_path / "out.png").exists()


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="needs Linux")
@pytest.mark.parametrize(
    ("model", "mode", "source", "result", "limit_mb"),
    [
        ("dynet-tiny", "RGB", "in.jpg", "out.png", 1300),
        ("tiny", "RGBA", "in.png", "out.jpg", 1350),
        ("tiny", "CMYK", "in.jpg", "out.png", 1250),
        ("tiny", "L", "in.tif", "out.webp", 1900),  # its three channels are equal
    ],
)
def test_peak_memory_stays_under_the_limit(make_run, tmp_path, make_photo, model, mode, source, result, limit_mb):
    """A 24 MP picture, tiled: the process never holds more than it was allowed."""
    odd = make_run(tmp_path / "run", model, change=0.02)
    image = Image.fromarray(np.tile(make_photo(0, 500, 750), (8, 8, 1)))
    if mode == "RGBA":
        image.putalpha(image.getchannel(0))
    image.convert(mode).convert("RGB" if mode == "L" else mode).save(tmp_path / source, quality=90)
    code = (
        "from restoration.cli import app; app(standalone_mode=False); "
        "print([line for line in open('/proc/self/status') if line.startswith('VmHWM')][0].split()[1])"
    )
    arguments = ["restore", odd, tmp_path / source, tmp_path / result, "--max-memory", f"{limit_mb}MB"]
    command = [sys.executable, "-P", "-c", code, *map(str, arguments)]
    environment = os.environ | {"OMP_WAIT_POLICY": "PASSIVE"}
    ended = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
    assert ended.returncode == 0, ended.stderr
    assert int(ended.stdout.split()[-1]) * 1024 < limit_mb * 10**6
    with Image.open(tmp_path / result) as out:
        assert out.size == (6000, 4000)


def test_tiling_config_refuses_nonsense():
    for wrong in ({"tile_px": 100}, {"overlap_px": 300}, {"margin_px": 32}, {"window_frac": 0.0}, {"batch": 0}):
        with pytest.raises(ConfigError, match="tiling"):
            TilingConfig(**wrong)
