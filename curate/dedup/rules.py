"""Which likenesses count as one picture: the `[dedup]` table of a recipe.

Equal bytes and equal pixels are `curate.dedup.exact`; everything here is for pictures that are nearly the same.
"""

from __future__ import annotations

from dataclasses import dataclass

from ..core.errors import ConfigError


@dataclass(frozen=True, slots=True, kw_only=True)
class Dedup:
    """Rules for near-duplicates; all off unless a recipe says otherwise.

    Attributes:
        perceptual: pictures with nearly equal perceptual hashes (`curate.dedup.perceptual`).
        radius_bits: largest Hamming distance of two hashes of 64 bits.
        turned: also mirrored and by 90 degrees rotated copies.
        min_thumbnail_ncc: smallest correlation of the two 16 x 16 thumbnails, -1..1; what makes a wide radius safe.
        partial: one picture shows a part of the other (`curate.dedup.partial`).
        min_inliers: keypoints that must agree on one similarity transform.
        min_part_ncc: smallest correlation of the two thumbnails where they overlap: one watermark on two pictures is no copy.
        min_shared_frac: share of the smaller picture that must lie in the other one; below it both are kept.
        semantic: name of an encoder; pictures whose rows point the same way (`curate.dedup.semantic`). "" = off.
        min_cosine: smallest cosine of two rows.
        patches: patches of different pictures that are the same tile.
        patch_radius_bits: largest distance of their hashes, for both kinds of hash.
    """

    perceptual: bool = False
    radius_bits: int = 12  # imagededup's default is 10; wider is safe with the thumbnails' check
    turned: bool = True
    min_thumbnail_ncc: float = 0.8  # 0.6 joins unlike pictures, 0.9 loses crops of 10 % (docs/log.md, 2026-11-25)
    partial: bool = False
    min_inliers: int = 8  # unlike pictures reach 6 (docs/log.md, 2026-11-25)
    min_part_ncc: float = 0.85  # of like pictures 99 % reach 0.91, of unlike ones none 0.72 (docs/log.md, 2026-11-25)
    min_shared_frac: float = 0.8
    semantic: str = ""
    min_cosine: float = 0.95  # SemDeDup (Abbas et al. 2023) uses 1 - epsilon of this order
    patches: bool = False
    patch_radius_bits: int = 2

    def __post_init__(self) -> None:
        """Check ranges."""
        for name, most in (("radius_bits", 16), ("patch_radius_bits", 16)):
            if not 0 <= getattr(self, name) <= most:
                raise ConfigError(f"dedup.{name} must be in 0..{most}, got {getattr(self, name)}")
        for name in ("min_thumbnail_ncc", "min_part_ncc", "min_cosine"):
            if not -1 <= getattr(self, name) <= 1:
                raise ConfigError(f"dedup.{name} must be in -1..1, got {getattr(self, name)}")
        if not 0 < self.min_shared_frac <= 1:
            raise ConfigError(f"dedup.min_shared_frac must be in 0..1 and > 0, got {self.min_shared_frac}")
        if not self.min_inliers >= 4:
            raise ConfigError(f"dedup.min_inliers must be >= 4, got {self.min_inliers}")

    @property
    def of_pictures(self) -> bool:
        """True if any rule compares whole pictures, for which each needs a fingerprint."""
        return self.perceptual or self.partial or bool(self.semantic)
