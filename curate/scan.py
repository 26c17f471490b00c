"""Pass 1: open each picture once, hash it, measure every score, judge each patch, and encode those that pass.

The pixels of one picture are held at a time. What is encoded goes to a spool (see `curate.spool`), so that nothing is
decoded twice whatever the plan decides later.
"""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from .candidate import Candidate
from .core.decode import decode_jpeg
from .core.errors import DecodeError
from .core.images import check_num_bytes, decode_image, luma, read_facts
from .core.records import Image, ImageFacts, InputRef, Rejection, ScannedImage, Score, ScoredPatch
from .core.stage import Context, Stage, chain
from .dedup.rules import Dedup
from .fingerprint import TakeFingerprint
from .grid import Grid, alignment, grid_origins
from .leaks.stage import FindLeaks
from .lossless import MAX_TILES, can_crop, cut_whole
from .pairs import read_pair
from .patches import JPEG_EXTENSION, LOSSLESS_DEFAULT, SOURCE, Encode
from .recipes import Filter, Recipe
from .view import ImageView, PatchView, View


@dataclass(frozen=True, slots=True, kw_only=True)
class ScanConfig:
    """What pass 1 needs to know; every field changes the result.

    Attributes:
        recipe: what is measured, and what gates.
        patch_size_px: side of the patches.
        patch_format: how they are encoded.
        keep_flat_frac: share of flat patches that stay.
        seed: of random draws.
        near: rules for whose sake pictures get fingerprints.
        packs: (name, file) of benchmark pictures that must not be in the corpus.
    """

    recipe: Recipe
    patch_size_px: int
    patch_format: str
    keep_flat_frac: float
    seed: int
    near: Dedup = field(default_factory=Dedup)
    packs: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True, slots=True)
class Read:
    """Read the file's bytes and hash them."""

    name: str = "read"

    def __call__(self, items: Iterable[Candidate], ctx: Context, /) -> Iterator[Candidate]:
        """Reject what cannot be read (`unreadable`) or is too large to be a picture (`too-many-bytes`)."""
        for item in items:
            try:
                check_num_bytes(Path(item.ref.path).stat().st_size)
                item.data = Path(item.ref.path).read_bytes()
            except (OSError, DecodeError) as error:
                reason, detail = _why(error)
                ctx.reject(Rejection(stage=self.name, key=item.ref.source, reason=reason, detail=detail))
                continue
            item.sha256 = hashlib.sha256(item.data).hexdigest()
            yield item


@dataclass(frozen=True, slots=True)
class Decode:
    """Decode strictly, and no more than is asked for: a picture that will be cut as a JPEG needs only its luma.

    Scores are measured on the luma of what the patch will hold: the JPEG's own where it is cut without decoding, BT.601 of
    the decoded pixels elsewhere.

    Attributes:
        recipe: says whether pixels are hashed, and how the grid lies.
        size_px: side of the patches.
        patch_format: `webp`, `png` or `source`: JPEGs are cut without decoding where they can be.
    """

    recipe: Recipe
    size_px: int
    patch_format: str
    name: str = "decode"

    def __call__(self, items: Iterable[Candidate], ctx: Context, /) -> Iterator[Candidate]:
        """Reject damaged files and files that are no images, with the decoder's own reason."""
        for item in items:
            try:
                # the end of a URL is no promise of a format, a file's suffix is
                item.facts = facts = read_facts(item.data, "" if item.ref.url else item.ref.source)
                item.pair = read_pair(item.ref.pair_path, facts)
                load_rgb = functools.cache(functools.partial(decode_image, item.data, facts))
                item.view = self._view(item, facts, load_rgb)
                if self.recipe.drop_same_pixels:
                    item.pixels_sha256 = hash_pixels(item.view.rgb)
            except DecodeError as error:
                ctx.reject(Rejection(stage=self.name, key=item.ref.source, reason=error.reason, detail=error.detail))
                continue
            yield item

    def _view(self, item: Candidate, facts: ImageFacts, load_rgb: Callable[[], Image]) -> ImageView:
        num_bytes = len(item.data)
        item.extension = self._extension(item, facts)
        if item.extension != JPEG_EXTENSION:
            view = ImageView(facts=facts, num_bytes=num_bytes, grey=luma(load_rgb()), load_rgb=load_rgb)
            _ = view.rgb  # decoded already: say so to `has_rgb`
            return view
        assert facts.jpeg is not None, "only JPEGs are cut"
        num_tiles = -(-facts.height // self.size_px) * -(-facts.width // self.size_px)
        if facts.jpeg.progressive and self.recipe.grid == Grid() and num_tiles <= MAX_TILES:
            grey, item.cut = cut_whole(item.data, facts, self.size_px)
        else:
            grey = decode_jpeg(item.data, "GRAY")[..., 0]
        return ImageView(facts=facts, num_bytes=num_bytes, grey=grey, load_rgb=load_rgb)

    def _extension(self, item: Candidate, facts: ImageFacts) -> str:
        if self.patch_format != SOURCE:
            return self.patch_format
        stride = self.recipe.grid.stride_px or self.size_px
        pictures = [facts, *([item.pair.facts] if item.pair else [])]
        cut = all(can_crop(picture, [(stride, stride)], self.size_px) for picture in pictures)
        return JPEG_EXTENSION if cut else LOSSLESS_DEFAULT


@dataclass(frozen=True, slots=True)
class ImageGates:
    """Measure every image-level score, then let the gates judge."""

    filters: tuple[Filter, ...]
    gates: tuple[str, ...]
    patch_size_px: int
    name: str = "image-gates"

    def __call__(self, items: Iterable[Candidate], ctx: Context, /) -> Iterator[Candidate]:
        """Reject pictures that fail a gate, or that cannot hold one whole patch."""
        for item in items:
            item.scores.update(measure(self.filters, "image", item.seen))
            reason = judge(self.filters, self.gates, "image", item.scores)
            if not reason and min(item.seen.grey.shape) < self.patch_size_px:
                reason = "too-small"
            if reason:
                detail = f"{item.seen.facts.width}x{item.seen.facts.height}"
                ctx.reject(Rejection(stage=self.name, key=item.ref.source, reason=reason, detail=detail))
                continue
            yield item


@dataclass(frozen=True, slots=True)
class Patches:
    """Lay the grid, then measure and judge every whole patch."""

    filters: tuple[Filter, ...]
    config: ScanConfig
    name: str = "patches"

    def __call__(self, items: Iterable[Candidate], ctx: Context, /) -> Iterator[Candidate]:
        """Fill `patches`; rejects nothing itself: a picture without a kept patch is decided by the plan."""
        size = self.config.patch_size_px
        for item in items:
            pictures = (item.seen.facts, *((item.pair.facts,) if item.pair else ()))
            origins = grid_origins(item.seen, self.config.recipe.grid, size, alignment(pictures, item.extension))
            for y, x in origins:
                scores = measure(self.filters, "patch", PatchView(image=item.seen, y=y, x=x, size_px=size))
                reason = judge(self.filters, self.config.recipe.gates, "patch", scores)
                spared = reason == "flat" and self._spared(ctx, f"{item.sha256}/{y}/{x}")
                item.patches.append(
                    ScoredPatch(y=y, x=x, scores=scores, reason="" if spared else reason, kept_flat=spared)
                )
            yield item

    def _spared(self, ctx: Context, key: str) -> bool:
        return self.config.keep_flat_frac > 0 and ctx.rng("keep-flat", key).random() < self.config.keep_flat_frac


def scan_stages(config: ScanConfig) -> tuple[Stage[Candidate, Candidate], ...]:
    """Build the stages of pass 1, in order."""
    recipe, filters = config.recipe, config.recipe.filters()
    size_px = config.patch_size_px
    fingerprint = (TakeFingerprint(config.near),) if config.near.of_pictures else ()
    leaks = (FindLeaks(config.packs),) if config.packs else ()
    return (
        Read(),
        Decode(recipe, size_px, config.patch_format),
        ImageGates(filters, recipe.gates, size_px),
        Patches(filters, config),
        *fingerprint,
        *leaks,
        Encode(size_px, recipe.phash or recipe.dedup.patches),
    )


def scan_image(
    ref: InputRef, stages: Sequence[Stage[Candidate, Candidate]], seed: int
) -> tuple[ScannedImage, list[bytes]]:
    """Scan one picture.

    Returns:
        Its record (`status` is `failed`, `rejected` or `candidate`) and what goes to the spool: for each patch in order
        the encoded patch, of a pair then the encoded degraded patch, or the thumbnail of a dropped one. `offset` counts
        from the first of these bytes.
    """
    if ref.fault:
        status = "rejected" if ref.unwanted else "failed"
        return ScannedImage(ref=ref, status=status, reason=ref.fault, detail=ref.fault_detail), []
    candidate, rejections = Candidate(ref=ref), list[Rejection]()
    context = Context(seed=seed, reject=rejections.append)
    try:
        for _ in chain([candidate], stages, context):
            pass
    except DecodeError as error:  # damage that shows only when colour is decoded or a patch is cut
        rejections.append(Rejection(stage="decode", key=ref.source, reason=error.reason, detail=error.detail))
    except Exception as error:
        error.add_note(f"while scanning {ref.source}")
        raise
    rejection = rejections[0] if rejections else None
    failed = rejection is not None and rejection.stage in ("read", "decode")
    scanned = ScannedImage(
        ref=ref,
        status="candidate" if rejection is None else "failed" if failed else "rejected",
        extension=candidate.extension,
        reason=rejection.reason if rejection else "",
        detail=rejection.detail if rejection else "",
        sha256=candidate.sha256,
        pixels_sha256=candidate.pixels_sha256,
        pair_sha256=candidate.pair.sha256 if candidate.pair else "",
        facts=candidate.facts,
        scores=candidate.scores,
        patches=() if rejection else tuple(candidate.patches),
        fingerprint=None if rejection else candidate.fingerprint,
        leaks=() if rejection else candidate.leaks,
    )
    return scanned, [] if rejection else candidate.blobs


def measure(filters: Iterable[Filter], level: str, view: View) -> dict[str, Score]:
    """Measure all scores of one level on one view."""
    scores: dict[str, Score] = {}
    for plugin in filters:
        if plugin.level == level:
            scores.update(plugin.measure(view))
    return scores


def judge(filters: Iterable[Filter], gates: Iterable[str], level: str, scores: Mapping[str, Score]) -> str:
    """Ask the gates of one level in order; return the first reason to drop, or ""."""
    by_name = {plugin.name: plugin for plugin in filters if plugin.level == level}
    for gate in gates:
        if gate in by_name:
            verdict = by_name[gate].judge(scores)
            if not verdict.keep:
                return verdict.reason
    return ""


def _why(error: OSError | DecodeError) -> tuple[str, str]:
    return (error.reason, error.detail) if isinstance(error, DecodeError) else ("unreadable", str(error.strerror))


def hash_pixels(image: Image) -> str:
    """Hash shape and pixels, so that equal bytes of another shape are another picture."""
    digest = hashlib.sha256(repr(image.shape).encode())
    digest.update(image.data)
    return digest.hexdigest()
