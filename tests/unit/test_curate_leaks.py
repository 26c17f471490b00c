"""Benchmark pictures are found in whatever shape they come; other pictures are left alone."""

import json
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest

from curate.core.errors import ConfigError, ManifestError
from curate.leaks import hypotheses, keypoints, pack, planes, verify
from curate.leaks.matcher import Leak, Matcher, load_matcher


def make_scene(seed: int, height: int = 240, width: int = 320) -> np.ndarray:
    """Made grey picture: filtered noise at three scales, discs and rectangles."""
    rng = np.random.default_rng(seed)
    image = np.full((height, width), 120, np.float32)
    for sigma, amount in ((1.5, 60), (5, 250), (14, 500)):
        image += amount * cv2.GaussianBlur(rng.normal(0, 1, image.shape).astype(np.float32), (0, 0), sigma)
    for _ in range(25):
        centre, level = rng.integers(0, (width, height)).tolist(), float(rng.integers(20, 230))
        if rng.random() < 0.5:
            cv2.circle(image, centre, int(rng.integers(4, 25)), level, -1, cv2.LINE_AA)
        else:
            cv2.rectangle(image, centre, (np.array(centre) + rng.integers(5, 40, 2)).tolist(), level, -1)
    return np.clip(cv2.GaussianBlur(image, (0, 0), 0.7), 0, 255).astype(np.uint8)


def jpeg(image: np.ndarray, quality: int) -> np.ndarray:
    return cv2.imdecode(cv2.imencode(".jpg", image, [cv2.IMWRITE_JPEG_QUALITY, quality])[1], cv2.IMREAD_GRAYSCALE)


def resize(image: np.ndarray, factor: float) -> np.ndarray:
    return cv2.resize(
        image, None, fx=factor, fy=factor, interpolation=cv2.INTER_AREA if factor < 1 else cv2.INTER_CUBIC
    )


NUM_SCENES = 4
COPIES = {
    "whole": lambda g: g,
    "recompressed": lambda g: jpeg(g, 30),
    "half": lambda g: resize(g, 0.5),
    "double": lambda g: resize(g, 2),
    "mirrored": lambda g: g[:, ::-1],
    "upside down": lambda g: g[::-1],
    "turned": lambda g: np.rot90(g),
    "turned and mirrored": lambda g: np.rot90(g, 3)[:, ::-1],
    "crop": lambda g: g[60:188, 100:228],
    "small recompressed mirrored crop": lambda g: jpeg(resize(g[20:220, 50:250], 0.66)[:, ::-1].copy(), 60),
    "askew": lambda g: cv2.warpAffine(g, cv2.getRotationMatrix2D((160, 120), 33, 1.2), (260, 200)),
}


@pytest.fixture(scope="module")
def benchmark(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("benchmark")
    (folder / "sub").mkdir()
    for seed in range(NUM_SCENES):
        name = f"sub/{seed}.png" if seed == 1 else f"{seed}.png"
        cv2.imwrite(str(folder / name), make_scene(seed))
    (folder / "readme.txt").write_text("not a picture")
    return folder


@pytest.fixture(scope="module")
def matcher(benchmark) -> Matcher:
    return load_matcher(pack.make_pack(benchmark))


def share_found(leaks: tuple[Leak, ...], shape: tuple[int, ...]) -> float:
    drawn = np.zeros(shape, np.uint8)
    for leak in leaks:
        cv2.fillConvexPoly(drawn, np.rint(leak.region).astype(np.int32), 1)
    return float(drawn.mean())


@pytest.mark.parametrize("how", COPIES)
@pytest.mark.parametrize("seed", range(NUM_SCENES))
def test_copy_is_found_and_named(matcher, how, seed):
    copy = np.ascontiguousarray(COPIES[how](make_scene(seed)))
    leaks = matcher.find(copy)
    assert {Path(leak.benchmark).stem for leak in leaks} == {str(seed)}
    assert share_found(leaks, copy.shape) > 0.8


def test_other_pictures_are_left_alone(matcher):
    assert [seed for seed in range(100, 130) if matcher.find(make_scene(seed))] == []


def test_pasted_crop_is_found_where_it_is(matcher):
    photo = make_scene(50, 900, 1100)
    photo[430:580, 610:790] = make_scene(2)[40:190, 90:270][:, ::-1]
    (leak,) = matcher.find(jpeg(photo, 70))
    assert leak.benchmark == "2.png"
    corners = np.array(leak.region)
    assert np.abs(corners.min(0) - (610, 430)).max() < 12
    assert np.abs(corners.max(0) - (790, 580)).max() < 12
    a, b, c, d, e, f = leak.transform
    assert np.allclose(
        (a * 90 + b * 40 + c, d * 90 + e * 40 + f), (789, 430), atol=1
    )  # benchmark (90, 40) stands there


def test_two_pictures_in_one_photograph(matcher):
    photo = make_scene(51, 700, 900)
    photo[20:260, 30:350], photo[400:640, 500:820] = make_scene(0), make_scene(3)
    assert sorted(leak.benchmark for leak in matcher.find(photo)) == ["0.png", "3.png"]


@pytest.mark.parametrize("picture", [np.zeros((128, 128)), np.full((40, 600), 255), np.eye(8), np.zeros((1, 1))])
def test_pictures_without_content(matcher, picture):
    assert matcher.find(picture.astype(np.uint8)) == ()


def test_same_leaks_for_any_number_of_threads_and_process(benchmark, tmp_path):
    photo = make_scene(52, 800, 1000)
    photo[100:300, 200:460] = make_scene(1)[20:220, 30:290]
    cv2.imwrite(str(tmp_path / "photo.png"), photo)
    code = (
        "import sys, hashlib, json, cv2, faiss\n"
        "from pathlib import Path\n"
        "from curate.leaks.matcher import load_matcher\n"
        "from curate.leaks.pack import make_pack\n"
        "threads, folder, photo, out = int(sys.argv[1]), *map(Path, sys.argv[2:])\n"
        "cv2.setNumThreads(threads); faiss.omp_set_num_threads(threads)\n"
        "make_pack(folder).save(out)\n"
        "leaks = load_matcher(out).find(cv2.imread(str(photo), cv2.IMREAD_GRAYSCALE))\n"
        "print(json.dumps([repr(leaks), hashlib.sha256(out.read_bytes()).hexdigest()]))\n"
    )
    answers = set()
    for threads in (1, 4):
        arguments = (str(threads), str(benchmark), str(tmp_path / "photo.png"), str(tmp_path / f"{threads}.pack"))
        done = subprocess.run([sys.executable, "-c", code, *arguments], capture_output=True, text=True, check=True)
        answers.add(done.stdout)
    (answer,) = answers
    assert "1.png" in json.loads(answer)[0]


def test_large_pack_index_gives_the_same_answers_again():
    rng = np.random.default_rng(0)
    rows = rng.integers(0, 90, (6000, keypoints.DESCRIPTOR_LENGTH)).astype(np.uint8)
    from curate.leaks.index import Nearest, build_index

    serialised = build_index(rows)
    assert len(serialised) > 0
    assert np.array_equal(serialised, build_index(rows))
    queries = np.clip(rows[::7].astype(int) + rng.integers(-4, 5, rows[::7].shape), 0, 255).astype(np.uint8)
    mirrored = keypoints.mirror_descriptors(queries)
    nearest = Nearest(rows, serialised)
    found, distances = nearest.search(queries)
    best = found[np.arange(len(found)), distances.argmin(1)]
    assert (best == np.arange(0, 6000, 7)).mean() > 0.95
    found, distances = nearest.search(mirrored)
    best = found[np.arange(len(found)), distances.argmin(1)]
    assert (best == np.arange(0, 6000, 7) + 6000).mean() > 0.95


def test_mirrored_descriptors_are_those_of_the_mirrored_picture():
    scene = make_scene(7)
    config = keypoints.KeypointConfig(num_fine=50, num_coarse=50)
    one, other = (keypoints.find_keypoints(np.ascontiguousarray(g), config) for g in (scene, scene[:, ::-1]))
    at = other.places * (-1, 1, 1, -1) + (scene.shape[1] - 1, 0, 0, 180)
    at[:, 3] %= 360
    pairs = np.abs(one.places[:, None] - at[None]).max(2)
    near = pairs.min(1) < 0.01
    assert near.mean() > 0.9
    mirrored = keypoints.mirror_descriptors(other.descriptors)[pairs.argmin(1)]
    assert np.median(np.abs(mirrored[near].astype(int) - one.descriptors[near]).max(1)) <= 1


def test_keypoints_of_tiles_are_those_of_the_whole():
    scene = make_scene(8, 500, 700)
    small = keypoints.KeypointConfig(core_px=256, margin_px=96, num_fine=1000, num_coarse=1000)
    whole = keypoints.KeypointConfig(core_px=1024, num_fine=1000, num_coarse=1000)
    tiled, once = (keypoints.find_keypoints(scene, config).places for config in (small, whole))
    fine_tiled, fine_once = (p[p[:, 2] < 6][:, :2] for p in (tiled, once))
    nearest = np.array([np.abs(fine_tiled - point).max(1).min() for point in fine_once])
    assert (nearest < 0.1).mean() > 0.98
    assert len(fine_tiled) == pytest.approx(len(fine_once), rel=0.02)


def test_lone_unsupported_matches_make_no_hypothesis():
    config = hypotheses.VoteConfig()
    place = np.array([[50, 60, 5, 0]], np.float32)
    for distance, num in ((config.max_lone_distance - 1, 1), (config.max_lone_distance + 1, 0)):
        matches = hypotheses.make_matches(
            place, place, np.zeros(1, np.int32), np.zeros(1, bool), np.array([distance], np.float32)
        )
        assert len(hypotheses.make_hypotheses(matches, config)) == num


@pytest.mark.parametrize("flip", [False, True])
def test_similarity_of_agreeing_matches_is_fitted(flip):
    rng = np.random.default_rng(1)
    own = np.column_stack([rng.uniform(0, 300, (20, 2)), rng.uniform(3, 9, 20), rng.uniform(0, 360, 20)])
    side = np.diag([-1.0 if flip else 1.0, 1.0])
    angle, scale, shift = np.deg2rad(37), 1.4, np.array([220.0, 90.0])
    linear = scale * np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]]) @ side
    turned = np.where(flip, 180 - own[:, 3], own[:, 3]) + 37
    there = np.column_stack([own[:, :2] @ linear.T + shift, own[:, 2] * scale, turned % 360])
    matches = hypotheses.make_matches(
        there, own, np.zeros(20, np.int32), np.full(20, flip), np.full(20, 50, np.float32)
    )
    (found,) = hypotheses.make_hypotheses(matches, hypotheses.VoteConfig())
    assert found.num_inliers == 20
    assert np.allclose(found.matrix, np.column_stack([linear, shift]), atol=1e-3)


def test_sample_undoes_a_known_placement():
    scene = make_scene(9)
    half = planes.halve(scene)
    matrix = planes.compose(np.array([[0.0, 1.0, 20.0], [1.0, 0.0, 30.0]]), planes.FROM_HALF)  # transposed, moved
    photo = np.zeros((600, 500), np.uint8)
    photo[30 : 30 + 320, 20 : 20 + 240] = scene.T
    levels, inside = planes.sample(photo, matrix, (0, 0, half.shape[1], half.shape[0]))
    assert inside.all()
    assert np.abs(levels - half)[2:-2, 2:-2].mean() < 2.5
    assert planes.sample(photo, planes.compose(np.array([[1.0, 0, 9000], [0, 1, 0]]), matrix), (0, 0, 9, 9)) is None


def test_a_placement_that_differs_is_refused(matcher):
    config = verify.VerifyConfig()
    there = planes.FROM_HALF
    assert verify.verify(make_scene(60), matcher.pack.planes[0], there, np.array([[60.0, 60.0]]), config) is None
    agreement = verify.verify(make_scene(0), matcher.pack.planes[0], there, np.array([[60.0, 60.0]]), config)
    assert agreement is not None
    assert verify.is_leak(agreement, 5, config)
    assert agreement.ncc > 0.99


def test_pack_comes_back_as_it_was(benchmark, tmp_path, matcher):
    path = tmp_path / "b.pack"
    matcher.pack.save(path)
    again = pack.load_pack(path)
    assert again.names == matcher.pack.names == ("0.png", "2.png", "3.png", "sub/1.png")
    assert again.sha256 == matcher.pack.sha256
    for name in ("sizes", "owner", "places", "looks", "descriptors", "index"):
        assert np.array_equal(getattr(again, name), getattr(matcher.pack, name)), name
    assert all(np.array_equal(a, b) for a, b in zip(again.planes, matcher.pack.planes, strict=True))
    assert load_matcher(path).find(make_scene(3)) == matcher.find(make_scene(3))


def test_pack_hash_depends_on_pixels_and_names(benchmark, tmp_path, matcher):
    scenes = {path.name: path.read_bytes() for path in benchmark.rglob("*.png")}
    for number, names in enumerate((["0.png", "1.png"], ["0.png", "x.png"])):
        (tmp_path / str(number)).mkdir()
        for name in names:
            (tmp_path / str(number) / name).write_bytes(scenes.get(name, scenes["1.png"]))
    hashes = {pack.make_pack(tmp_path / "0").sha256, pack.make_pack(tmp_path / "1").sha256, matcher.pack.sha256}
    assert len(hashes) == 3


def test_kept_pack_is_used_until_the_pictures_change(tmp_path, monkeypatch):
    folder, path = tmp_path / "pictures", tmp_path / "kept.pack"
    folder.mkdir()
    cv2.imwrite(str(folder / "a.png"), make_scene(0))
    first = pack.keep_pack(folder, path)
    monkeypatch.setattr(pack, "find_keypoints", None)  # not called when the pack is there
    assert pack.keep_pack(folder, path).sha256 == first.sha256
    monkeypatch.undo()
    cv2.imwrite(str(folder / "b.png"), make_scene(1))
    assert pack.keep_pack(folder, path).names == ("a.png", "b.png")
    path.write_bytes(b"cut")
    assert pack.keep_pack(folder, path).names == pack.load_pack(path).names == ("a.png", "b.png")


def test_a_smooth_benchmark_picture_is_named(tmp_path, caplog):
    cv2.imwrite(str(tmp_path / "grey.png"), np.full((100, 100), 128, np.uint8))
    smooth = pack.make_pack(tmp_path)
    assert "grey.png is so smooth" in caplog.text
    assert load_matcher(smooth).find(make_scene(0)) == ()


def test_named_packs_come_from_the_cache(benchmark, tmp_path, monkeypatch, matcher):
    monkeypatch.setenv("IRDISTILL_CACHE", str(tmp_path))
    matcher.pack.save(pack.pack_path("mine"))
    assert pack.resolve_against("mine").sha256 == matcher.pack.sha256
    assert pack.resolve_against(str(benchmark)).sha256 == matcher.pack.sha256
    with pytest.raises(ConfigError, match=r"--against yours: no such folder.*mine"):
        pack.resolve_against("yours")


def test_benchmarks_that_cannot_be_protected_are_errors(tmp_path):
    with pytest.raises(ConfigError, match="no such folder"):
        pack.make_pack(tmp_path / "none")
    with pytest.raises(ConfigError, match="no pictures in"):
        pack.make_pack(tmp_path)
    cv2.imwrite(str(tmp_path / "good.png"), make_scene(0))
    (tmp_path / "bad.png").write_bytes(b"\x89PNG\r\n\x1a\n nothing more")
    with pytest.raises(ConfigError, match=r"bad\.png cannot be read"):
        pack.make_pack(tmp_path)
    cv2.imwrite(str(tmp_path / "bad.png"), make_scene(0, 40, 50))
    with pytest.raises(ConfigError, match=r"bad\.png is 50x40; at least 64 px"):
        pack.make_pack(tmp_path)


def test_a_broken_pack_says_so(tmp_path):
    path = tmp_path / "x.pack"
    path.write_bytes(b"nothing")
    with pytest.raises(ManifestError, match="not a pack of benchmark pictures"):
        pack.load_pack(path)


@pytest.mark.data
def test_real_benchmark_crops_in_a_real_photograph(data_folder, tmp_path):
    source = data_folder / "bench" / "kodak24"
    names = sorted(path.name for path in source.iterdir())[:4]
    for name in names:
        (tmp_path / name).write_bytes((source / name).read_bytes())
    matcher = load_matcher(pack.make_pack(tmp_path))
    photo = cv2.imread(str(data_folder / "photos" / "mate-backgrounds" / "Garden.jpg"), cv2.IMREAD_GRAYSCALE)[
        :900, :1200
    ]
    assert matcher.find(photo) == ()
    crop = cv2.imread(str(source / names[3]), cv2.IMREAD_GRAYSCALE)[100:300, 150:350]
    photo = photo.copy()
    photo[300:500, 400:600] = crop[::-1]
    assert {leak.benchmark for leak in matcher.find(jpeg(photo, 50))} == {names[3]}
