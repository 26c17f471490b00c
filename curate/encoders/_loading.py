"""What every encoder is, and how one is found by name.

An encoder is the class `Plugin` of a file in this folder; making one loads its weights. There is no fallback: an
encoder that cannot be loaded ends with one line that says how to get it.
"""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
from numpy.typing import NDArray

from ..core import plugins
from ..core.config import build
from ..core.errors import ImageError

if TYPE_CHECKING:
    import torch

PACKAGE = "curate.encoders"


@dataclass(frozen=True, slots=True, kw_only=True)
class Encoded:
    """What an encoder says of N images.

    Attributes:
        rows: (N, D) float32, one vector per image.
        tokens: (N, T, D2) float32, one vector per place in the image; D2 may differ from D.
    """

    rows: NDArray[np.float32]
    tokens: NDArray[np.float32]


class Encoder(Protocol):
    """Images to rows and patch tokens; the same images in the same batches give the same bytes."""

    @property
    def name(self) -> str:
        """The name `load_encoder` takes."""
        ...

    @property
    def label(self) -> str:
        """What it is, for people."""
        ...

    @property
    def input_px(self) -> int:
        """Side of the square images it takes."""
        ...

    @property
    def uses_torch(self) -> bool:
        """Whether `encode` computes with torch; see `one_torch_thread`."""
        ...

    @property
    def pools_tokens(self) -> bool:
        """Whether a picture is compared by the mean of its tokens (a ViT) instead of by `Encoded.rows`."""
        ...

    @property
    def weights_sha256(self) -> str:
        """Hash of the weights, "" for an encoder without any."""
        ...

    @property
    def settings(self) -> Mapping[str, str]:
        """What its numbers depend on besides the weights, as resolved on this machine: model, precision, device."""
        ...

    def encode(self, images_NHWC: NDArray[np.uint8]) -> Encoded:
        """Encode a batch.

        Args:
            images_NHWC: (N, input_px, input_px, 3) uint8 sRGB in RGB order, N >= 1. Not modified.

        Raises:
            ImageError: another dtype or shape.
        """
        ...


class TokenEncoder(Encoder, Protocol):
    """An encoder with a mean patch token that can be differentiated: every one that `pools_tokens`."""

    def mean_token(self, x_BCHW: torch.Tensor) -> torch.Tensor:
        """Return the mean patch token of each image, in float32 arithmetic and differentiable with respect to `x_BCHW`.

        Args:
            x_BCHW: (B, 3, input_px, input_px) float32 in [0, 1], sRGB in RGB order, on any device. Not modified.

        Returns:
            (B, D) float32 on the device of `x_BCHW`; `encode(...).tokens.mean(axis=1)` up to its precision.
        """
        ...


def encoder_names() -> tuple[str, ...]:
    """List the encoders; imports none."""
    return plugins.names(PACKAGE)


def load_encoder(name: str, options: Mapping[str, Any] | None = None) -> Encoder:
    """Make an encoder by name, such as `vit_s14` or `handcrafted`.

    Args:
        name: a file of this folder.
        options: fields of its `Plugin`: `model`, `checkpoint`, `sha256`, `precision`, `device` where it has them.

    Raises:
        PluginError: no encoder of that name.
        ConfigError: an option it does not have, or a value out of range.
        MissingDependencyError: its weights or libraries are not there; the message names what brings them.
        ManifestError: its weights are damaged, or not those that `sha256` asks for.
    """
    encoder: Encoder = build(plugins.load(PACKAGE, name), options or {}, where=f"encoder {name}")
    return encoder


def full_precision(name: str) -> dict[str, str]:
    """Give the options with which an encoder computes in float32, for results that must not depend on the machine's kind.

    Raises:
        PluginError: no encoder of that name.
    """
    takes = {field.name for field in dataclasses.fields(plugins.load(PACKAGE, name))}
    return {"precision": "fp32"} if "precision" in takes else {}


@contextlib.contextmanager
def one_torch_thread(wanted: bool = True) -> Iterator[None]:
    """Let torch use one thread per operation, for code that runs several batches at once in threads of its own.

    Then results do not depend on the number of cores, and no core waits at a barrier for one that another process took:
    1.0 to 3.9 times faster than torch's own threads on a busy machine with two cores (docs/log.md, 2026-11-21).

    Args:
        wanted: False does nothing and does not load torch.
    """
    if not wanted:
        yield
        return
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def check_batch(images_NHWC: NDArray[np.generic], side_px: int) -> None:
    """Raise ImageError unless the batch is (N, side_px, side_px, 3) uint8 with N >= 1."""
    wanted = (side_px, side_px, 3)
    if (
        images_NHWC.dtype != np.uint8
        or images_NHWC.ndim != 4
        or images_NHWC.shape[1:] != wanted
        or not len(images_NHWC)
    ):
        raise ImageError(
            f"encode: wanted (N, {side_px}, {side_px}, 3) uint8, N >= 1, got {images_NHWC.shape} {images_NHWC.dtype}"
        )
