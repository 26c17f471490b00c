"""Matrix profiles read into tables, for what littleCMS through Pillow does not do: colours of 16 bits, and speed.

Camera and editing spaces (Adobe RGB, Display P3, ProPhoto) are all of this kind: a curve a channel, then a 3x3 matrix to XYZ
at D50. Profiles with look-up tables, or whose black is not black, are left to littleCMS.

Source: ICC.1:2010 sections 7.2, 8.3.3, 8.4.3, 10.5 (curv), 10.15 (para).
"""

from __future__ import annotations

import functools
import struct
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

_PARAMETERS = (1, 3, 4, 5, 7)  # of a parametric curve, by its kind
_MAX_TAGS = 200
_MAX_BLACK = 6  # of 65535; more needs black-point compensation


@dataclass(frozen=True, slots=True)
class MatrixProfile:
    """A profile of curves and, for RGB, a matrix.

    Attributes:
        curves: one `curv` or `para` tag a channel.
        to_xyz: (3, 3) linear RGB to XYZ at D50; None for grey.
    """

    curves: tuple[bytes, ...]
    to_xyz: NDArray[np.float64] | None

    def linear_tables(self, num: int) -> NDArray[np.uint16]:
        """Return (3, num): linear light as 0 .. 65535 for samples 0 .. num - 1; grey gives three equal rows."""
        return _linear_tables(self.curves, num)


def read_matrix_profile(profile: bytes) -> MatrixProfile | None:
    """Read a grey or RGB matrix profile; None if it is of another kind, has tables or a raised black, or does not parse."""
    try:
        tags = _read_tags(profile)
        if profile[20:24] != b"XYZ " or any(tag.startswith((b"A2B", b"D2B")) for tag in tags):
            return None
        if profile[16:20] == b"GRAY":
            return _checked(MatrixProfile((tags[b"kTRC"],), None))
        if profile[16:20] != b"RGB ":
            return None
        columns = [struct.unpack_from(">3i", tags[name + b"XYZ"], 8) for name in (b"r", b"g", b"b")]
        curves = (tags[b"rTRC"], tags[b"gTRC"], tags[b"bTRC"])
        return _checked(MatrixProfile(curves, np.array(columns, np.float64).T / 65536))
    except (KeyError, ValueError, IndexError, struct.error, ZeroDivisionError):
        return None


def apply_curve(tag: bytes, values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Apply a `curv` or `para` tag to samples in 0 .. 1; the result is clipped to 0 .. 1.

    Raises:
        ValueError: neither, or a parametric kind that does not exist.
    """
    kind, number = tag[:4], struct.unpack_from(">I", tag, 8)[0]
    if kind == b"para":
        number >>= 16
        if number >= len(_PARAMETERS):
            raise ValueError(f"parametric curve of kind {number}")
        return _parametric(number, [p / 65536 for p in struct.unpack_from(f">{_PARAMETERS[number]}i", tag, 12)], values)
    if kind != b"curv":
        raise ValueError(f"a curve of type {kind!r}")
    if number == 0:
        return values
    if number == 1:
        return np.asarray(values ** (struct.unpack_from(">H", tag, 12)[0] / 256))
    table = np.frombuffer(tag, ">u2", count=number, offset=12) / 65535
    return np.asarray(np.interp(values, np.linspace(0.0, 1.0, number), table))


def _parametric(kind: int, parameters: list[float], values: NDArray[np.float64]) -> NDArray[np.float64]:
    g, a, b, c, d, e, f = (
        (*parameters, 1.0, 0.0, 0.0, 0.0, 0.0, 0.0)[:7] if kind == 0 else (*parameters, 0.0, 0.0, 0.0, 0.0)[:7]
    )
    if kind in (1, 2):  # (a x + b)^g + c from -b / a on, c below
        c, d, e, f = 0.0, -b / a, c, c
    upper = np.maximum(a * values + b, 0.0) ** g + e
    return np.asarray(np.clip(np.where(values >= d, upper, c * values + f), 0.0, 1.0))


def _read_tags(profile: bytes) -> dict[bytes, bytes]:
    (count,) = struct.unpack_from(">I", profile, 128)
    tags = {}
    for i in range(min(count, _MAX_TAGS)):
        name, start, length = struct.unpack_from(">4sII", profile, 132 + 12 * i)
        tags[name] = profile[start : start + length]
    return tags


@functools.lru_cache(maxsize=8)
def _linear_tables(curves: tuple[bytes, ...], num: int) -> NDArray[np.uint16]:
    values = np.linspace(0.0, 1.0, num)
    light = np.stack([apply_curve(curve, values) for curve in curves])
    return np.broadcast_to(np.rint(np.clip(light, 0, 1) * 65535).astype(np.uint16), (3, num))


def _checked(profile: MatrixProfile) -> MatrixProfile | None:
    black = profile.linear_tables(2)[:, 0]  # raises on a broken curve
    return profile if black.max() <= _MAX_BLACK else None
