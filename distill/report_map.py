"""The corpus on a plane: grey points (or, of many patches, hexagons), the chosen ones on top by stage, and their pictures.

Both maps are one layout: PCA of what the encoder says, or t-SNE from scikit-learn where asked for.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from html import escape

import numpy as np
from numpy.typing import NDArray
from threadpoolctl import threadpool_limits

from curate.core.errors import ConfigError, MissingDependencyError

from .likeness import principal_axes
from .selection import Indices

Floats = NDArray[np.float64]
LAYOUTS = ("pca", "tsne")
WIDTH, HEIGHT, PAD = 360, 300, 14
MAX_POINTS = 20_000  # above: hexagons, so that the page stays small
MAX_TITLES = 600  # chosen points that tell their name under the pointer
MAX_CHOSEN = 1500  # more of them would only be a blot: so many are drawn, evenly spaced over the selection
_SMALL = 3.0  # px of radius, below which a mark has a thin edge
THUMBNAIL_PX = 38
MAX_THUMBNAILS = 32
MAX_MOVE_PX = 70  # a thumbnail may stand so far from its point, with a line to it
_FIT_ROWS = 20_000
_BLOCK_ROWS = 65_536
_HEX_PX = 5.0  # from the middle of a hexagon to its corner
_LEVELS = 6
_EDGE_SHARE = 0.001  # of hexagon maps: so much of each side may lie outside
_TSNE_ROWS = 10_000
_PERPLEXITY = 30.0  # scikit-learn's default


def place(rows_ND: NDArray[np.floating], picked: Indices, layout: str) -> Floats:
    """Lay rows out on the page.

    Args:
        rows_ND: what the encoder says of each patch; a memory map is read in blocks.
        picked: rows that must lie inside the picture.
        layout: `pca`, or `tsne` (for up to 10,000 patches; needs scikit-learn).

    Returns:
        (N, 2) px from the upper left corner, inside the frame.

    Raises:
        ConfigError: an unknown layout, or too many rows for it.
        MissingDependencyError: scikit-learn is not installed.
    """
    if layout == "tsne":
        flat = _tsne(rows_ND)
    elif layout == "pca":
        flat = _pca(rows_ND)
    else:
        raise ConfigError(f"report.layout must be one of {', '.join(LAYOUTS)}, got {layout!r}")
    edge = 0.0 if len(flat) <= MAX_POINTS else _EDGE_SHARE
    low = np.minimum(np.quantile(flat, edge, axis=0), flat[picked].min(axis=0))
    high = np.maximum(np.quantile(flat, 1 - edge, axis=0), flat[picked].max(axis=0))
    span = np.where(high > low, high - low, 1.0)
    share = np.where(high > low, np.clip((flat - low) / span, 0.0, 1.0), 0.5)
    return np.asarray(PAD + share * (np.array([WIDTH, HEIGHT]) - 2 * PAD), dtype=np.float64)


def point_map(places_N2: Floats, picked: Indices, stages: Sequence[str], titles: Sequence[str]) -> str:
    """Draw the corpus and the chosen points: stage 1 as discs, stage 2 as diamonds.

    Args:
        places_N2: of `place`.
        picked: the chosen rows.
        stages: stage of each.
        titles: what each tells under the pointer.
    """
    shown = np.unique(np.linspace(0, len(picked) - 1, min(len(picked), MAX_CHOSEN)).round().astype(np.int64))
    shown = shown[np.argsort(picked[shown])]  # in key order, so that neither stage lies on top of the other
    radius = 5.2 if len(picked) <= 60 else 3.8 if len(picked) <= MAX_TITLES else 1.9
    marks = [
        _mark(places_N2[picked[at]], stages[at], radius, titles[at] if len(picked) <= MAX_TITLES else "")
        for at in shown.tolist()
    ]
    return _svg("map of the corpus with the chosen patches", [_corpus(places_N2), *marks])


def picture_map(places_N2: Floats, pictures: Mapping[int, str], stages: Mapping[int, str]) -> str:
    """Draw thumbnails where their patches lie; what would cover another moves aside, a line leads to its point.

    Args:
        places_N2: of `place`.
        pictures: row -> data URI; where room is short the first ones are kept.
        stages: row -> stage.
    """
    taken, lines, parts = list[tuple[float, float]](), list[str](), list[str]()
    for row, uri in pictures.items():
        x, y = (float(value) for value in places_N2[row])
        spot = next((spot for spot in _spots(x, y) if _is_free(spot, taken)), None)
        if spot is None:
            continue
        taken.append(spot)
        name, corner = escape(stages[row]), [middle - THUMBNAIL_PX / 2 for middle in spot]
        box = f'x="{corner[0]:.1f}" y="{corner[1]:.1f}" width="{THUMBNAIL_PX}" height="{THUMBNAIL_PX}"'
        lines.append(f'<path class="lead {name}" d="M{x:.1f} {y:.1f}L{spot[0]:.1f} {spot[1]:.1f}"/>')
        parts.append(f'<image href="{escape(uri)}" {box} preserveAspectRatio="xMidYMid slice"/>')
        parts.append(f'<rect class="ring {name}" {box} rx="2"/>')
    return _svg("chosen patches where they lie on the map", [_corpus(places_N2), *lines, *parts])


def _spots(x: float, y: float) -> Iterator[tuple[float, float]]:
    """Yield places for a thumbnail, nearest to its point first, inside the frame."""
    half = THUMBNAIL_PX / 2 + 2
    for radius in range(0, MAX_MOVE_PX + 1, 7):
        for turn in range(16 if radius else 1):
            angle = 2 * math.pi * turn / 16
            left, top = x + radius * math.cos(angle), y + radius * math.sin(angle)
            yield min(max(left, half), WIDTH - half), min(max(top, half), HEIGHT - half)


def _is_free(spot: tuple[float, float], taken: Sequence[tuple[float, float]]) -> bool:
    apart = THUMBNAIL_PX + 4
    return all(abs(spot[0] - x) >= apart or abs(spot[1] - y) >= apart for x, y in taken)


def _corpus(places_N2: Floats) -> str:
    return _dots(places_N2) if len(places_N2) <= MAX_POINTS else _hexagons(places_N2)


def _pca(rows_ND: NDArray[np.floating]) -> Floats:
    sample = rows_ND[:: -(-len(rows_ND) // _FIT_ROWS)]
    mean, axes = principal_axes(sample, 2)
    flat = np.zeros((len(rows_ND), 2))
    for start in range(0, len(rows_ND), _BLOCK_ROWS):
        block = (np.asarray(rows_ND[start : start + _BLOCK_ROWS], dtype=np.float64) - mean) @ axes
        flat[start : start + len(block), : block.shape[1]] = block
    return flat


def _tsne(rows_ND: NDArray[np.floating]) -> Floats:
    if not 3 < len(rows_ND) <= _TSNE_ROWS:
        raise ConfigError(f"report.layout tsne is for 4 to {_TSNE_ROWS:,} patches, got {len(rows_ND):,}; use pca")
    try:
        from sklearn.manifold import TSNE
    except ImportError as error:
        raise MissingDependencyError("layout tsne needs scikit-learn: pip install 'irdistill[demo]'") from error
    mean, axes = principal_axes(rows_ND, 50)  # as usual before t-SNE (van der Maaten and Hinton 2008, section 4.2)
    reduced = (np.asarray(rows_ND, dtype=np.float64) - mean) @ axes
    perplexity = min(_PERPLEXITY, (len(rows_ND) - 1) / 3)
    start = reduced[:, :2] if reduced.shape[1] > 1 else np.column_stack([reduced, np.zeros(len(reduced))])
    start = start / max(float(start[:, 0].std()), 1e-12) * 1e-4  # scikit-learn's own scale of a start
    model = TSNE(n_components=2, perplexity=perplexity, init=start, random_state=0, n_jobs=1)
    with threadpool_limits(1):  # threads change the order of its sums, and spin beside a busy neighbour
        return np.asarray(model.fit_transform(reduced), dtype=np.float64)


def _dots(places_N2: Floats) -> str:
    rounded = np.unique(places_N2.round(1), axis=0).tolist()
    radius = "few" if len(places_N2) <= 1500 else "many"
    return f'<path class="dots {radius}" d="{"".join(f"M{x:g} {y:g}h0" for x, y in rounded)}"/>'


def _hexagons(places_N2: Floats) -> str:
    """Count patches per hexagon and draw them in steps of shade, by the root of the count."""
    wide, tall = np.sqrt(3) * _HEX_PX, 1.5 * _HEX_PX
    first = np.column_stack([np.round(places_N2[:, 0] / wide), 2 * np.round(places_N2[:, 1] / (2 * tall))])
    second = np.column_stack([
        np.floor(places_N2[:, 0] / wide) + 0.5, 2 * np.floor(places_N2[:, 1] / (2 * tall)) + 1,
    ])  # fmt: skip
    scale = np.array([wide, tall])
    apart = [((places_N2 - grid * scale) ** 2).sum(axis=1) for grid in (first, second)]
    grid = np.where((apart[0] <= apart[1])[:, None], first, second)
    cells, counts = np.unique(grid, axis=0, return_counts=True)
    level = np.minimum((np.sqrt(counts / counts.max()) * _LEVELS).astype(np.int64), _LEVELS - 1)
    half, tip = wide / 2, _HEX_PX / 2
    upper, lower = f"l{half:.2f} {tip:.2f}v{_HEX_PX:.2f}", f"v{-_HEX_PX:.2f}z"
    corner = f"{upper}l{-half:.2f} {tip:.2f}l{-half:.2f} {-tip:.2f}{lower}"
    parts = []
    for shade in range(_LEVELS):
        centres = (cells[level == shade] * scale).tolist()
        if centres:
            path = "".join(f"M{x:.1f} {y - _HEX_PX:.1f}{corner}" for x, y in centres)
            parts.append(f'<path class="hex" fill-opacity="{(shade + 1) / _LEVELS:.2f}" d="{path}"/>')
    return "".join(parts)


def _mark(at: Floats, stage: str, radius: float, title: str) -> str:
    x, y, side = float(at[0]), float(at[1]), 1.25 * radius
    inside = f"<title>{escape(title)}</title>" if title else ""
    name = f"{escape(stage)} pick" + (" small" if radius < _SMALL else "")
    if stage == "stage1":
        return f'<circle class="{name}" cx="{x:.1f}" cy="{y:.1f}" r="{radius}">{inside}</circle>'
    outline = f"M{x:.1f} {y - side:.1f}l{side:.2f} {side:.2f}l-{side:.2f} {side:.2f}l-{side:.2f} -{side:.2f}z"
    return f'<path class="{name}" d="{outline}">{inside}</path>'


def _svg(title: str, parts: Sequence[str]) -> str:
    return (
        f'<svg class="map" viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{title}"><title>{title}</title>'
        f"{''.join(parts)}</svg>"
    )
