"""Pass 1: open each picture once, hash it, measure every score, and say for each patch whether it passes the gates."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from .core.errors import DecodeError
from .core.images import decode_grey, decode_image, read_facts
from .core.records import Image, ImageFacts, InputRef, Rejection, ScannedImage, Score, ScoredPatch
from .core.stage import Context, Stage, chain
from .recipes import Filter, Recipe
from .view import ImageView, PatchView, View


@dataclass(slots=True, kw_only=True)
class Candidate:
    """One picture on its way through the stages; each fills what it knows."""

    ref: InputRef
    data: bytes = b""
    sha256: str = ""
    pixels_sha256: str = ""
    facts: ImageFacts | None = None
    view: ImageView | None = None
    scores: dict[str, Score] = field(default_factory=dict)
    patches: list[ScoredPatch] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class Read:
    """Read the file's bytes and hash them."""

    name: str = "read"

    def __call__(self, items: Iterable[Candidate], ctx: Context, /) -> Iterator[Candidate]:
        """Reject what cannot be read (`unreadable`)."""
        for item in items:
            try:
                item.data = Path(item.ref.path).read_bytes()
            except OSError as error:
                ctx.reject(
                    Rejection(stage=self.name, key=item.ref.source, reason="unreadable", detail=str(error.strerror))
                )
                continue
            item.sha256 = hashlib.sha256(item.data).hexdigest()
            yield item


@dataclass(frozen=True, slots=True)
class Decode:
    """Decode to upright 8-bit sRGB, strictly; hash the pixels together with their shape."""

    name: str = "decode"

    def __call__(self, items: Iterable[Candidate], ctx: Context, /) -> Iterator[Candidate]:
        """Reject damaged files and files that are no images, with the decoder's own reason."""
        for item in items:
            try:
                item.view = _decode(item)
            except DecodeError as error:
                ctx.reject(Rejection(stage=self.name, key=item.ref.source, reason=error.reason, detail=error.detail))
                continue
            item.facts, item.pixels_sha256 = item.view.facts, hash_pixels(item.view.rgb)
            yield item


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
            view = _view(item)
            item.scores.update(measure(self.filters, "image", view))
            reason = judge(self.filters, self.gates, "image", item.scores)
            if not reason and min(view.grey.shape) < self.patch_size_px:
                reason = "too-small"
            if reason:
                detail = f"{view.facts.width}x{view.facts.height}"
                ctx.reject(Rejection(stage=self.name, key=item.ref.source, reason=reason, detail=detail))
                continue
            yield item


@dataclass(frozen=True, slots=True)
class Patches:
    """Cut the grid from the origin and measure and judge every whole patch."""

    filters: tuple[Filter, ...]
    gates: tuple[str, ...]
    patch_size_px: int
    name: str = "patches"

    def __call__(self, items: Iterable[Candidate], ctx: Context, /) -> Iterator[Candidate]:
        """Fill `patches`; rejects nothing itself: a picture without a kept patch is decided by the plan."""
        size = self.patch_size_px
        for item in items:
            view = _view(item)
            height, width = view.grey.shape
            for y in range(0, height - size + 1, size):
                for x in range(0, width - size + 1, size):
                    scores = measure(self.filters, "patch", PatchView(image=view, y=y, x=x, size_px=size))
                    reason = judge(self.filters, self.gates, "patch", scores)
                    item.patches.append(ScoredPatch(y=y, x=x, scores=scores, reason=reason))
            yield item


def scan_inputs(refs: Iterable[InputRef], recipe: Recipe, *, patch_size_px: int, seed: int) -> list[ScannedImage]:
    """Scan pictures one by one; holds the pixels of one picture at a time.

    Args:
        refs: what to open.
        recipe: scores and gates.
        patch_size_px: side of the square patches.
        seed: root of random draws (no built-in filter draws).

    Returns:
        One record per input, in order; `status` is `failed`, `rejected` or `candidate`.
    """
    filters = recipe.filters()
    stages: tuple[Stage[Candidate, Candidate], ...] = (
        Read(), Decode(), ImageGates(filters, recipe.gates, patch_size_px), Patches(filters, recipe.gates, patch_size_px),
    )  # fmt: skip
    return [_scan_one(ref, stages, seed) for ref in refs]


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


def hash_pixels(image: Image) -> str:
    """Hash shape and pixels, so that equal bytes of another shape are another picture."""
    digest = hashlib.sha256(repr(image.shape).encode())
    digest.update(image.data)
    return digest.hexdigest()


def _decode(item: Candidate) -> ImageView:
    facts = read_facts(item.data, item.ref.source)
    rgb = decode_image(item.data, facts)
    grey = decode_grey(item.data, facts, lambda: rgb)
    return ImageView(facts=facts, num_bytes=len(item.data), rgb=rgb, grey=grey)


def _view(item: Candidate) -> ImageView:
    assert item.view is not None, "stages run in order"
    return item.view


def _scan_one(ref: InputRef, stages: Iterable[Stage[Candidate, Candidate]], seed: int) -> ScannedImage:
    candidate, rejections = Candidate(ref=ref), list[Rejection]()
    context = Context(seed=seed, reject=rejections.append)
    for _ in chain([candidate], stages, context):
        pass
    rejection = rejections[0] if rejections else None
    failed = rejection is not None and rejection.stage in ("read", "decode")
    return ScannedImage(
        ref=ref,
        status="candidate" if rejection is None else "failed" if failed else "rejected",
        reason=rejection.reason if rejection else "",
        detail=rejection.detail if rejection else "",
        sha256=candidate.sha256,
        pixels_sha256=candidate.pixels_sha256,
        facts=candidate.facts,
        scores=candidate.scores,
        patches=tuple(candidate.patches),
    )
