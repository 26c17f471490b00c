"""Profiles, gamma and inks: right to one level against exact arithmetic or littleCMS."""

import io
import struct
import zlib

import numpy as np
import pytest
from PIL import Image, ImageCms

from curate.core import colour, images

SRGB_XYZ_D50 = np.array([[0.4361, 0.3851, 0.1431], [0.2225, 0.7169, 0.0606], [0.0139, 0.0971, 0.7141]])
DISPLAY_P3_D50 = np.array([[0.51512, 0.29198, 0.15710], [0.24120, 0.69225, 0.06657], [-0.00105, 0.04189, 0.78407]])
ADOBE_RGB_D50 = np.array([[0.60974, 0.20528, 0.14919], [0.31111, 0.62567, 0.06322], [0.01947, 0.06087, 0.74457]])
PROPHOTO_D50 = np.array([[0.79767, 0.13519, 0.03134], [0.28804, 0.71188, 0.00009], [0.0, 0.0, 0.82491]])
SRGB_CURVE = (2.4, 1 / 1.055, 0.055 / 1.055, 1 / 12.92, 0.04045)


def fixed(*values: float) -> bytes:
    return b"".join(struct.pack(">i", round(value * 65536)) for value in values)


def icc(space: bytes, tags: dict[bytes, bytes], pcs: bytes = b"XYZ ", device: bytes = b"mntr") -> bytes:
    """Build an ICC profile, version 2.4 (4.3 if a parametric curve is among the tags)."""
    tags = {
        b"desc": b"desc" + bytes(4) + struct.pack(">I", 5) + b"made\0" + bytes(78),
        b"cprt": b"text" + bytes(4) + b"none\0",
    } | tags
    tags |= {b"wtpt": b"XYZ " + bytes(4) + fixed(0.9642, 1.0, 0.8249)}
    table, body = b"", b""
    start = 128 + 4 + 12 * len(tags)
    for name, content in tags.items():
        content += bytes(-len(content) % 4)
        table += name + struct.pack(">II", start + len(body), len(content))
        body += content
    head = (
        bytes(4)
        + b"lcms"
        + struct.pack(">I", 0x02400000)
        + device
        + space
        + pcs
        + struct.pack(">6H", 2025, 1, 1, 0, 0, 0)
    )
    head = (head + b"acsp").ljust(64, b"\0") + struct.pack(">I", 1) + fixed(0.9642, 1.0, 0.8249)
    profile = head.ljust(128, b"\0") + struct.pack(">I", len(tags)) + table + body
    return struct.pack(">I", len(profile)) + profile[4:]


def curve(gamma: float | tuple[float, ...]) -> bytes:
    if isinstance(gamma, tuple):
        return b"para" + bytes(4) + struct.pack(">HH", 3, 0) + fixed(*gamma)
    return b"curv" + bytes(4) + struct.pack(">IH", 1, round(gamma * 256))


def matrix_profile(matrix: np.ndarray, gamma: float | tuple[float, ...]) -> bytes:
    tags = {name + b"XYZ": b"XYZ " + bytes(4) + fixed(*matrix[:, i]) for i, name in enumerate((b"r", b"g", b"b"))}
    return icc(b"RGB ", tags | {name + b"TRC": curve(gamma) for name in (b"r", b"g", b"b")})


def grey_profile(gamma: float | tuple[float, ...]) -> bytes:
    return icc(b"GRAY", {b"kTRC": curve(gamma)})


def cmyk_profile() -> bytes:
    """Make a profile of subtractive inks on paper: Lab at the 16 corners, multilinear between."""
    corners = b""
    for c, m, y, k in np.ndindex(2, 2, 2, 2):
        light = np.array([1 - 0.9 * c, 1 - 0.9 * m, 1 - 0.9 * y]) * (1 - 0.95 * k)
        lightness = 100 * float(light @ [0.25, 0.65, 0.1]) ** (1 / 2.2)
        corners += bytes(
            (round(lightness * 2.55), round(128 + 60 * (light[0] - light[1])), round(128 + 60 * (light[1] - light[2])))
        )
    ramp = bytes(range(256))
    lut = b"mft1" + bytes(4) + bytes((4, 3, 2, 0)) + fixed(1, 0, 0, 0, 1, 0, 0, 0, 1) + ramp * 4 + corners + ramp * 3
    return icc(b"CMYK", {b"A2B0": lut, b"A2B1": lut}, pcs=b"Lab ", device=b"prtr")


def to_light(values: np.ndarray, gamma: float | tuple[float, ...]) -> np.ndarray:
    if not isinstance(gamma, tuple):
        return values**gamma
    g, a, b, c, d = gamma
    return np.where(values >= d, (a * values + b) ** g, c * values)


def to_srgb(light: np.ndarray) -> np.ndarray:
    light = np.clip(light, 0, 1)
    return 255 * np.where(light <= 0.0031308, 12.92 * light, 1.055 * light ** (1 / 2.4) - 0.055)


def wide_colours(seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    corners = np.array(np.meshgrid(*[[0, 1, 7, 40, 128, 200, 254, 255]] * 3)).reshape(3, -1).T
    return np.vstack([corners, rng.integers(0, 256, (512, 3))]).astype(np.uint8).reshape(32, 32, 3)


def saved(picture: Image.Image, kind: str, **options: object) -> bytes:
    out = io.BytesIO()
    picture.save(out, kind, **options)
    return out.getvalue()


WIDE = {
    "display-p3": (DISPLAY_P3_D50, SRGB_CURVE),
    "adobe-rgb": (ADOBE_RGB_D50, 563 / 256),
    "prophoto": (PROPHOTO_D50, 461 / 256),
}


@pytest.mark.parametrize("name", WIDE)
@pytest.mark.parametrize("kind", ["PNG", "TIFF", "WEBP"])
def test_wide_gamut_profiles_equal_exact_arithmetic(name, kind):
    matrix, gamma = WIDE[name]
    rgb, profile = wide_colours(), matrix_profile(matrix, gamma)
    options = {"lossless": True} if kind == "WEBP" else {}
    data = saved(Image.fromarray(rgb), kind, icc_profile=profile, **options)
    expected = to_srgb(to_light(rgb / 255, gamma) @ (np.linalg.inv(SRGB_XYZ_D50) @ matrix).T)
    facts = images.read_facts(data)
    assert (facts.policy, facts.icc_profile, facts.untouched) == ("icc-to-srgb", "made", False)
    assert np.abs(images.decode_image(data) - expected).max() <= 1.0
    assert np.abs(expected - rgb).max() > 20  # or the test would say nothing


def test_wide_gamut_jpeg_equals_littlecms_on_its_own_pixels(make_photo):
    profile = matrix_profile(DISPLAY_P3_D50, SRGB_CURVE)
    data = saved(Image.fromarray(make_photo(0, 64, 96)), "JPEG", quality=95, icc_profile=profile)
    with Image.open(io.BytesIO(data)) as picture:
        source, srgb = ImageCms.ImageCmsProfile(io.BytesIO(profile)), ImageCms.createProfile("sRGB")
        expected = np.asarray(
            ImageCms.profileToProfile(picture, source, srgb, renderingIntent=1, outputMode="RGB", flags=0x2000)
        )
    facts = images.read_facts(data)
    decoded = images.decode_image(data)
    assert facts.policy == "icc-to-srgb" and not facts.untouched
    assert np.abs(decoded.astype(int) - expected).max() <= 1
    grey = images.luma(decoded)
    assert np.abs(grey - decoded @ [0.299, 0.587, 0.114]).max() <= 1


@pytest.mark.parametrize("name", WIDE)
def test_sixteen_bits_with_a_profile_equal_exact_arithmetic(name):
    matrix, gamma = WIDE[name]
    deep = np.random.default_rng(0).integers(0, 65536, (48, 48, 3), dtype=np.uint16)
    data = png(deep, 2, [(b"iCCP", b"p\0\0" + zlib.compress(matrix_profile(matrix, gamma)))])
    expected = to_srgb(to_light(deep / 65535, gamma) @ (np.linalg.inv(SRGB_XYZ_D50) @ matrix).T)
    assert images.read_facts(data).policy == "16-to-8,icc-to-srgb"
    assert np.abs(images.decode_image(data) - expected).max() <= 1.0
    grey = png(deep[..., :1], 0, [(b"iCCP", b"p\0\0" + zlib.compress(grey_profile(1.8)))])
    assert images.read_facts(grey).policy == "16-to-8,grey-to-rgb,icc-to-srgb"
    assert np.abs(images.decode_image(grey) - to_srgb((deep[..., :1] / 65535) ** (461 / 256))).max() <= 1.0


def test_sixteen_and_eight_bits_agree_under_every_kind_of_curve():
    """The same colours as 8 bits (littleCMS) and as 16 (our tables): every curve type, and tables of three lengths."""
    table = np.rint(np.linspace(0, 1, 1024) ** 2.0 * 65535).astype(">u2")
    short = np.array([0, 9000, 65535], ">u2")
    parametric = (
        (0, (1.9,)),
        (1, (2.0, 1.1, -0.1)),
        (2, (2.0, 1.1, -0.1, 0.0)),
        (2, (2.0, 0.9, 0.0, 0.1)),  # a raised black: left to littleCMS
        (3, SRGB_CURVE),
        (4, (2.4, 0.95, 0.05, 0.07, 0.04, 0.0, 0.0)),
    )
    curves = [b"para" + bytes(4) + struct.pack(">HH", kind, 0) + fixed(*values) for kind, values in parametric]
    curves += [b"curv" + bytes(4) + struct.pack(">I", len(t)) + t.tobytes() for t in (table, short, table[:0])]
    rgb = wide_colours(1)
    for curve_tag in curves:
        tags = {
            name + b"XYZ": b"XYZ " + bytes(4) + fixed(*DISPLAY_P3_D50[:, i])
            for i, name in enumerate((b"r", b"g", b"b"))
        }
        profile = icc(b"RGB ", tags | {name + b"TRC": curve_tag for name in (b"r", b"g", b"b")})
        packed = [(b"iCCP", b"p\0\0" + zlib.compress(profile))]
        eight, deep = (images.decode_image(png(samples, 2, packed)) for samples in (rgb, rgb.astype(np.uint16) * 257))
        assert images.read_facts(png(rgb, 2, packed)).policy == "icc-to-srgb"
        assert np.abs(eight.astype(int) - deep).max() <= 1, curve_tag[:16]


@pytest.mark.parametrize("gamma", [1.0, 1.8, 2.2, 2.4])
@pytest.mark.parametrize("kind", ["PNG", "JPEG", "TIFF"])
def test_grey_profiles_equal_exact_arithmetic(gamma, kind):
    ramp = np.repeat(np.arange(256, dtype=np.uint8), 64).reshape(128, 128)
    data = saved(
        Image.fromarray(ramp), kind, icc_profile=grey_profile(gamma), **({"quality": 100} if kind == "JPEG" else {})
    )
    with Image.open(io.BytesIO(data)) as picture:
        own = np.asarray(picture)
    expected = to_srgb((own / 255) ** (round(gamma * 256) / 256))[..., None]
    assert images.read_facts(data).policy == "grey-to-rgb,icc-to-srgb"
    assert np.abs(images.decode_image(data) - expected).max() <= 1.0


def test_profiles_that_are_srgb_leave_a_jpeg_untouched(make_photo):
    picture = Image.fromarray(make_photo(0, 40, 40))
    plain = images.decode_image(saved(picture, "JPEG"))
    near = SRGB_XYZ_D50 * (1 + 1e-4)
    for profile in (
        ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes(), matrix_profile(near, SRGB_CURVE),
    ):  # fmt: skip
        data = saved(picture, "JPEG", icc_profile=profile)
        facts = images.read_facts(data)
        assert facts.policy == "icc-is-srgb" and facts.untouched
        assert np.array_equal(images.decode_image(data), plain)
    grey = images.read_facts(saved(picture.convert("L"), "JPEG", icc_profile=grey_profile(SRGB_CURVE)))
    assert grey.policy == "grey-to-rgb,icc-is-srgb" and grey.untouched


def test_two_levels_away_is_not_srgb():
    assert (
        colour.judge_profile(matrix_profile(SRGB_XYZ_D50, 2.2), "RGB")[0] == "icc-to-srgb"
    )  # pure 2.2: 6 levels off near black


@pytest.mark.parametrize(
    ("profile", "code"),
    [
        (b"not a profile", "icc-unreadable"),
        (matrix_profile(DISPLAY_P3_D50, SRGB_CURVE)[:300], "icc-unreadable"),
        (grey_profile(2.2), "icc-wrong-space"),
        (cmyk_profile(), "icc-wrong-space"),
    ],
)
def test_useless_profiles_are_named_and_change_nothing(make_photo, profile, code):
    picture = Image.fromarray(make_photo(0, 40, 40))
    data = saved(picture, "JPEG", icc_profile=profile)
    facts = images.read_facts(data)
    assert facts.policy == code and facts.untouched
    assert np.array_equal(images.decode_image(data), images.decode_image(saved(picture, "JPEG")))


def test_cmyk_profile_equals_littlecms(make_photo):
    profile = cmyk_profile()
    inks = np.dstack([make_photo(0, 64, 64), make_photo(1, 64, 64)[..., 0] // 2])
    for kind in ("JPEG", "TIFF"):
        data = saved(Image.fromarray(inks, "CMYK"), kind, icc_profile=profile)
        with Image.open(io.BytesIO(data)) as picture:
            source, srgb = ImageCms.ImageCmsProfile(io.BytesIO(profile)), ImageCms.createProfile("sRGB")
            expected = np.asarray(
                ImageCms.profileToProfile(picture, source, srgb, renderingIntent=1, outputMode="RGB", flags=0x2000)
            )
        assert images.read_facts(data).policy == "icc-to-srgb"
        assert np.abs(images.decode_image(data).astype(int) - expected).max() <= 1
    black = np.zeros((8, 8, 4), np.uint8)
    black[..., 3] = 255
    for ink, low, high in ((black, 0, 60), (np.zeros((8, 8, 4), np.uint8), 240, 255)):
        decoded = images.decode_image(saved(Image.fromarray(ink, "CMYK"), "JPEG", icc_profile=profile))
        assert low <= decoded.min() and decoded.max() <= high


@pytest.mark.parametrize("kind", ["JPEG", "TIFF"])
def test_cmyk_without_a_profile_follows_the_formula(make_photo, kind):
    inks = np.dstack([make_photo(0, 48, 48), make_photo(1, 48, 48)[..., 0]])
    data = saved(Image.fromarray(inks, "CMYK"), kind, **({"quality": 100} if kind == "JPEG" else {}))
    with Image.open(io.BytesIO(data)) as picture:
        own = np.asarray(picture).astype(float)  # Pillow's inks: 255 = full
    assert np.abs(own - inks).mean() < 3
    assert images.read_facts(data).policy == "cmyk-to-rgb"
    assert np.abs(images.decode_image(data) - (255 - own[..., :3]) * (255 - own[..., 3:]) / 255).max() <= 1


def png(samples: np.ndarray, colour_type: int, extra: list[tuple[bytes, bytes]] | None = None) -> bytes:
    """Write a PNG chunk by chunk."""
    bits = samples.dtype.itemsize * 8
    rows = b"".join(b"\0" + row.astype(f">u{samples.dtype.itemsize}").tobytes() for row in samples)
    header = struct.pack(">IIBBBBB", samples.shape[1], samples.shape[0], bits, colour_type, 0, 0, 0)
    chunks = [(b"IHDR", header), *(extra or []), (b"IDAT", zlib.compress(rows)), (b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body)) for kind, body in chunks
    )


def gama(gamma: float) -> tuple[bytes, bytes]:
    return b"gAMA", struct.pack(">I", round(gamma * 100_000))


def chrm(*primaries: float) -> tuple[bytes, bytes]:
    return b"cHRM", struct.pack(">8I", *(round(value * 100_000) for value in primaries))


SRGB_PRIMARIES = (0.3127, 0.3290, 0.64, 0.33, 0.30, 0.60, 0.15, 0.06)
WIDE_PRIMARIES = (0.3127, 0.3290, 0.64, 0.33, 0.21, 0.71, 0.15, 0.06)


@pytest.mark.parametrize("gamma", [0.35, 0.55556, 0.70, 1.0, 1.8])
@pytest.mark.parametrize(
    ("colour_type", "depth"), [(0, np.uint8), (2, np.uint8), (0, np.uint16), (2, np.uint16), (6, np.uint16)]
)
def test_gamma_tagged_png_equals_exact_arithmetic(gamma, colour_type, depth):
    full = np.iinfo(depth).max
    num = {0: 1, 2: 3, 6: 4}[colour_type]
    values = np.random.default_rng(0).integers(0, full + 1, (32, 32, num)).astype(depth)
    data = png(values, colour_type, [gama(gamma), chrm(*SRGB_PRIMARIES)])
    expected = np.broadcast_to(to_srgb((values[..., :3] / full) ** (1 / gamma)), (32, 32, 3))
    if num == 4:
        alpha = values[..., 3:] / full
        expected = expected * alpha + 255 * (1 - alpha)
    assert images.read_facts(data).policy.endswith("gamma-to-srgb")
    assert np.abs(images.decode_image(data) - expected).max() <= 1.0


@pytest.mark.parametrize(
    "extra",
    [
        [gama(0.45455)],
        [gama(0.45455), chrm(*SRGB_PRIMARIES)],
        [gama(0.0)],
        [chrm(*SRGB_PRIMARIES)],
        [chrm(*[0.0] * 8)],
        [gama(1.0), (b"sRGB", b"\0")],
        [gama(1.0), (b"cICP", b"\x01\x0d\0\1")],
    ],
)
def test_gamma_that_means_srgb_changes_nothing(extra):
    rgb = wide_colours()
    data = png(rgb, 2, extra)
    assert images.read_facts(data).policy == ""
    assert np.array_equal(images.decode_image(data), rgb)


@pytest.mark.parametrize("gamma", [0.45455, 1.0])
def test_primaries_of_a_png_equal_exact_arithmetic(gamma):
    rgb = wide_colours()
    data = png(rgb, 2, [gama(gamma), chrm(*WIDE_PRIMARIES)])
    expected = to_srgb((rgb / 255) ** (1 / gamma) @ (np.linalg.inv(SRGB_XYZ_D50) @ ADOBE_RGB_D50).T)
    assert images.read_facts(data).policy == "gamma-to-srgb"
    assert np.abs(images.decode_image(data) - expected).max() <= 1.5  # the profile's matrices have four digits


def test_a_profile_goes_before_gamma():
    rgb, profile = wide_colours(), zlib.compress(matrix_profile(DISPLAY_P3_D50, SRGB_CURVE))
    assert images.read_facts(png(rgb, 2, [gama(1.0), (b"iCCP", b"p\0\0" + profile)])).policy == "icc-to-srgb"


def test_gamma_and_alpha_of_a_palette():
    palette = np.array([[250, 0, 10], [0, 128, 0], [30, 30, 200], [255, 255, 255]], np.uint8)
    index = np.random.default_rng(0).integers(0, 4, (16, 16, 1), dtype=np.uint8)
    data = png(index, 3, [gama(1.0), (b"PLTE", palette.tobytes()), (b"tRNS", bytes([255, 100, 0, 255]))])
    alpha = np.array([255, 100, 0, 255])[index[..., 0]][..., None] / 255
    expected = to_srgb(palette[index[..., 0]] / 255) * alpha + 255 * (1 - alpha)
    assert images.read_facts(data).policy == "palette-to-rgb,alpha-on-white,gamma-to-srgb"
    assert np.abs(images.decode_image(data) - expected).max() <= 1


def test_adobe_rgb_by_exif_alone(make_photo):
    rgb = make_photo(0, 40, 40)
    exif = Image.Exif()
    exif[0x0112] = 1
    exif.get_ifd(0x8769)[0xA005] = {1: "R03"}
    data = saved(Image.fromarray(rgb), "JPEG", quality=100, exif=exif)
    own = images.decode_image(saved(Image.fromarray(rgb), "JPEG", quality=100))
    expected = to_srgb((own / 255) ** (563 / 256) @ (np.linalg.inv(SRGB_XYZ_D50) @ ADOBE_RGB_D50).T)
    facts = images.read_facts(data)
    assert facts.policy == "adobe-rgb-to-srgb" and not facts.untouched
    assert np.abs(images.decode_image(data) - expected).max() <= 1.5
