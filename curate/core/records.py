"""The values that flow through curate: frozen, small, picklable."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

Image = NDArray[np.uint8]
"""(H, W, 3) uint8 sRGB, RGB order; read-only where it is shared."""

TRAIN = "train"
"""The split of everything that is in no other one."""

Score = float | None
"""One measured value; None where it could not be measured."""


@dataclass(frozen=True, slots=True, kw_only=True)
class InputRef:
    """One input before anything was read.

    Attributes:
        source: POSIX path relative to the source's root; the name used in every table.
        path: where the bytes are.
        num_bytes: size on disk.
        pair_path: where the degraded picture of a pair is; "" if the input is no pair.
        pair_source: its name relative to the folder of the degraded pictures.
        pair_num_bytes: its size on disk.
        url: where it was fetched from, without credentials; "" if it was found in a folder.
        fault: why there is nothing to read, a short code such as `http-4xx`; "" if there is.
        fault_detail: the same for people.
        unwanted: the fault is a rule that was obeyed (opt-out, duplicate URL, the recipe), not a failure.
    """

    source: str
    path: str
    num_bytes: int
    pair_path: str = ""
    pair_source: str = ""
    pair_num_bytes: int = 0
    url: str = ""
    fault: str = ""
    fault_detail: str = ""
    unwanted: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Rejection:
    """Why an input left the pipeline: `stage` and `reason` are short codes, `detail` is for people."""

    stage: str
    key: str
    reason: str
    detail: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """What a filter says of one set of scores; `reason` is "" when kept."""

    keep: bool
    reason: str = ""


KEEP = Verdict(keep=True)
UNTOUCHED = frozenset({"", "grey-to-rgb", "icc-is-srgb", "icc-wrong-space", "icc-unreadable", "first-frame"})
"""Policy codes that leave the decoded pixels of a JPEG as they are."""


@dataclass(frozen=True, slots=True, kw_only=True)
class JpegFacts:
    """What the markers of a JPEG say (see `curate.core.jpeg`).

    Attributes:
        progressive: several scans.
        arithmetic: arithmetic instead of Huffman coding.
        lossless: a lossless process (not DCT).
        precision_bits: bits per sample, 8 or 12.
        num_components: 1 grey, 3 colour, 4 CMYK or YCCK.
        subsampling: `4:4:4`, `4:2:0`, ..., `grey` or `other`.
        mcu_width: width of a minimum coded unit in pixels.
        mcu_height: height of it.
        luma_table: 64 quantisation steps in zigzag order; () if the file holds none.
        quality: nearest IJG quality, 1..100.
        adobe_transform: the colour transform of an Adobe marker (0 none, 1 YCbCr, 2 YCCK); None without one.
    """

    progressive: bool
    arithmetic: bool
    lossless: bool
    precision_bits: int
    num_components: int
    subsampling: str
    mcu_width: int
    mcu_height: int
    luma_table: tuple[int, ...]
    quality: float | None
    adobe_transform: int | None


@dataclass(frozen=True, slots=True, kw_only=True)
class ImageFacts:
    """What the header and the decoder say of one image, before any score.

    Attributes:
        format: `jpeg`, `png`, ... lower case.
        width: pixels, after orientation.
        height: pixels, after orientation.
        orientation: EXIF orientation 1..8 that was applied; 1 = nothing done.
        mode: the file's own pixel mode (Pillow's name, `;16` after it for 16 bits a channel).
        policy: what was done to reach 8-bit RGB: comma-separated codes (see `curate.core.images`), "" if nothing.
        icc_profile: description of the embedded profile, "" if none.
        jpeg: what a JPEG's markers say; None for other formats.
    """

    format: str
    width: int
    height: int
    orientation: int
    mode: str
    policy: str
    icc_profile: str
    jpeg: JpegFacts | None = None

    @property
    def untouched(self) -> bool:
        """True if nothing was done to the decoded pixels but repeating a grey channel: a JPEG may be cropped as it is."""
        return not set(self.policy.split(",")) - UNTOUCHED


@dataclass(frozen=True, slots=True, kw_only=True)
class ScoredPatch:
    """One patch of the grid: its origin, its scores and, if dropped, why.

    Attributes:
        y: row of its first pixel in the upright picture.
        x: column of it.
        scores: one value per column of every patch-level filter.
        reason: the first gate that dropped it, "" if kept.
        kept_flat: kept on purpose although it is flat (`--keep-flat`).
        phash: perceptual hash as 16 hex digits; "" in recipes that ask for none.
        average_hash: likewise, of the mean kind.
        offset: where its bytes start in the spool: the encoded patch, or the thumbnail of a dropped one.
        num_bytes: length of those bytes.
        sha256: hash of the encoded patch; "" for dropped ones.
        pair_num_bytes: length of the encoded degraded patch, which follows; 0 if the input is no pair.
        pair_sha256: hash of it.
        keeper: key of the patch that is kept instead of this one; "" unless it was dropped as a copy.
    """

    y: int
    x: int
    scores: Mapping[str, Score]
    reason: str = ""
    kept_flat: bool = False
    phash: str = ""
    average_hash: str = ""
    offset: int = 0
    num_bytes: int = 0
    sha256: str = ""
    pair_num_bytes: int = 0
    pair_sha256: str = ""
    keeper: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Fingerprint:
    """What is kept of a picture to tell later whether another one is nearly the same, without its pixels.

    Attributes:
        phashes: perceptual hash of the picture, then of the 7 turned ones (`curate.dedup.perceptual.TURNS`); 16 hex digits.
        average_hash: the mean kind of hash, 16 hex digits.
        thumbnail: 16 x 16 luma values, row by row, as 512 hex digits.
        detail: variance of the Laplacian of the luma reduced to at most 384 px, in (8-bit levels)^2: which copy is sharper.
        embedding: base64 of a unit row of float16, little endian; "" unless a recipe asks for one.
        keypoints: base64 of `curate.dedup.partial.describe`; "" unless a recipe asks for it.
    """

    phashes: tuple[str, ...]
    average_hash: str
    thumbnail: str
    detail: float
    embedding: str = ""
    keypoints: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Leak:
    """A benchmark picture that shows in an input.

    Attributes:
        benchmark: its file, relative to the folder or pack it is from.
        pack: that folder's or pack's name.
        corners: (x, y) of the four corners of the part that shows, in pixels of the upright input.
        score: correlation of the two over that part, 0..1.
        num_inliers: keypoints that agree.
    """

    benchmark: str
    pack: str
    corners: tuple[tuple[float, float], ...]
    score: float
    num_inliers: int


def identity_of(sha256: str, pair_sha256: str) -> str:
    """Hash that patch keys begin with: of the file, of a pair of both files (one clean picture may be degraded twice)."""
    return hashlib.sha256((sha256 + pair_sha256).encode()).hexdigest() if pair_sha256 else sha256


@dataclass(frozen=True, slots=True, kw_only=True)
class ScannedImage:
    """Everything pass 1 learned of one input; `reason` is "" while it is a candidate.

    `spool` is the number of the spool file that holds its patches, `extension` how they are encoded. A picture that was
    `forgotten` on request keeps its place among the others, and nothing of its pixels.

    The plan fills `group` (what all copies of one picture have in common), `keeper` (source of the picture that is kept instead
    of this one), `near` (how it resembles the keeper) and `split`.
    """

    ref: InputRef
    status: str
    spool: int = 0
    extension: str = ""
    reason: str = ""
    detail: str = ""
    sha256: str = ""
    pixels_sha256: str = ""
    pair_sha256: str = ""
    facts: ImageFacts | None = None
    scores: Mapping[str, Score] = field(default_factory=dict)
    patches: tuple[ScoredPatch, ...] = ()
    forgotten: bool = False
    fingerprint: Fingerprint | None = None
    leaks: tuple[Leak, ...] = ()
    group: str = ""
    keeper: str = ""
    near: str = ""
    split: str = ""

    @property
    def identity(self) -> str:
        """Hash that patch keys begin with: of the file, of a pair of both files (one clean picture may be degraded twice)."""
        return identity_of(self.sha256, self.pair_sha256)


@dataclass(frozen=True, slots=True, kw_only=True)
class ShardInfo:
    """One shard as its manifest lists it; paths are relative to the dataset's root."""

    file: str
    samples: int
    num_bytes: int
    sha256: str
    md5: str
    metadata: str
    metadata_sha256: str
    rejected: str = ""
    rejected_sha256: str = ""
    split: str = TRAIN
