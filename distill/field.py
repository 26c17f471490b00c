"""One smooth field of change per pair, added to both of its members: what the calibrating CNN says, and how it is applied.

If a clean picture and its degraded version went through a network separately, the relation that training learns from would be
broken. Here both members get the same field d, so that the degradation is left untouched:

- `additive`: y~ = y + d, x~ = x + d, hence y~ - x~ = y - x exactly (noise, rain, snow, mild blur, JPEG);
- `log_gain`: y~ = y exp(d), x~ = x exp(d), hence y~ x = x~ y: exact for any pixel-wise gain (low light).

d = eps tanh(bilinear_up(net(a))), a = both members at 256 x 256, limited so that nothing has to be clipped. Pairs of two sizes
(super-resolution) do not exist in our corpora (`curate.pairs` refuses them).

Source: spec/tripled.md section 4.4; the words "lightweight CNN" are TripleD's, the network and the field are the spec's own.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import cv2
import numpy as np
from numpy.typing import NDArray

from curate.core.errors import ImageError, ManifestError
from curate.core.images import check_image
from curate.core.records import Image

from .calibration import FULL, LEVEL, Deep

if TYPE_CHECKING:
    import torch

SIDE_PX, WIDTH, DILATIONS = 256, 32, (1, 2, 4)  # spec/tripled.md section 4.4
NUM_PARAMETERS = 21_123  # the same
ADDITIVE, LOG_GAIN = "additive", "log_gain"
KINDS = (ADDITIVE, LOG_GAIN)
EDGE: Final = "replicate"  # ours: zeros beyond the edge showed as a frame of changed colour
_DARKEST = 1e-6  # of a logarithm: black stays black under any gain


def build_network(rng: np.random.Generator) -> torch.nn.Sequential:
    """Make the network at its start, where it says nothing: (B, 6, side, side) -> zeros (B, 3, side, side).

    Args:
        rng: draws the first three layers (PyTorch's default, uniform in +-1/sqrt(fan-in)); the last one is zero.
    """
    import torch
    from torch import nn

    layers: list[nn.Module] = []
    channels = 6
    for dilation in DILATIONS:
        layers += [nn.Conv2d(channels, WIDTH, 3, padding=dilation, dilation=dilation, padding_mode=EDGE), nn.ReLU()]
        channels = WIDTH
    last = nn.Conv2d(WIDTH, 3, 3, padding=1, padding_mode=EDGE)
    for layer in layers[::2]:
        draw_convolution(layer, rng)
    nn.init.zeros_(last.weight)
    nn.init.zeros_(last.bias)  # type: ignore[arg-type]
    return nn.Sequential(*layers, last).to(memory_format=torch.channels_last)  # 1.5 times faster on CPUs


def draw_convolution(layer: Any, rng: np.random.Generator) -> None:
    """Fill a convolution's weights and bias from `rng`: the same numbers on any device."""
    import torch

    limit = float(1 / np.sqrt(layer.weight[0].numel()))
    with torch.no_grad():
        for values in (layer.weight, layer.bias):
            values.copy_(torch.from_numpy(rng.uniform(-limit, limit, tuple(values.shape)).astype(np.float32)))


def small_view(clean: Image, degraded: Image | None, side_px: int = SIDE_PX) -> NDArray[np.float32]:
    """Make what the network reads: (6, side, side) float32 in [0, 1], degraded above clean; clean twice without a pair.

    Area-averaged down, bilinear up.
    """
    small = _small(clean, side_px)
    return np.concatenate([small if degraded is None else _small(degraded, side_px), small])


def network_input(views: list[NDArray[np.float32]], device: str) -> torch.Tensor:
    """Stack small views to (B, 6, side, side) in the memory order that convolutions are fastest in."""
    import torch

    return torch.from_numpy(np.stack(views)).to(device).contiguous(memory_format=torch.channels_last)


def _small(image: Image, side_px: int) -> NDArray[np.float32]:
    shrinks = min(image.shape[:2]) > side_px
    way = cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR
    small = cv2.resize(image.astype(np.float32), (side_px, side_px), interpolation=way)
    return np.ascontiguousarray(small.transpose(2, 0, 1), dtype=np.float32) / np.float32(255)


def to_tensor(image: Image, device: str) -> torch.Tensor:
    """Turn (H, W, 3) uint8 into (3, H, W) float32 in [0, 1]."""
    import torch

    return torch.from_numpy(np.ascontiguousarray(image.transpose(2, 0, 1))).to(device).float() / 255


def spread(low_CHW: torch.Tensor, members: list[torch.Tensor], *, kind: str, eps: float) -> torch.Tensor:
    """Turn the network's answer for one pair into its field, at full size and within the headroom.

    Args:
        low_CHW: (3, 256, 256) float32.
        members: clean and, of pairs, degraded: (3, H, W) float32 in [0, 1]. Not modified.
        kind: `additive` or `log_gain`.
        eps: largest change; of [0, 1], or of the gain's logarithm.

    Returns:
        (3, H, W) float32, differentiable with respect to `low_CHW`.
    """
    import torch
    from torch.nn import functional

    size = tuple(members[0].shape[1:])
    field = eps * torch.tanh(functional.interpolate(low_CHW[None], size=size, mode="bilinear", align_corners=False)[0])
    brightest, darkest = members[0], members[0]
    for member in members[1:]:
        brightest, darkest = torch.maximum(brightest, member), torch.minimum(darkest, member)
    if kind == LOG_GAIN:
        return torch.minimum(field, -torch.log(brightest.clamp(min=_DARKEST)))
    return torch.minimum(torch.maximum(field, -darkest), 1 - brightest)


def changed(member: torch.Tensor, field: torch.Tensor, kind: str) -> torch.Tensor:
    """Apply a field to one member, both (3, H, W) float32."""
    return member * field.exp() if kind == LOG_GAIN else member + field


@dataclass(frozen=True, slots=True, kw_only=True)
class FieldChange:
    """A trained network, ready to be applied (`distill.calibration.Change`).

    Attributes:
        network: from `build_network`.
        kind: `additive` or `log_gain`.
        eps: largest change.
        side_px: side of what the network reads.
        device: where it computes.
    """

    network: Any
    kind: str
    eps: float
    side_px: int = SIDE_PX
    device: str = "cpu"

    def tensors(self) -> dict[str, NDArray[np.float32]]:
        """Return the weights by name."""
        return {
            name: np.ascontiguousarray(value.detach().cpu().numpy())
            for name, value in self.network.state_dict().items()
        }

    @classmethod
    def from_tensors(
        cls,
        tensors: Mapping[str, NDArray[np.float32]],
        *,
        kind: str,
        eps: float,
        side_px: int = SIDE_PX,
        device: str = "cpu",
    ) -> FieldChange:
        """Make a change again from what `tensors` gave (`calibrator.safetensors`) and the manifest's `fit`.

        Raises:
            ManifestError: these are not the weights of this network.
        """
        import torch

        network = build_network(np.random.default_rng(0))
        try:
            network.load_state_dict({name: torch.from_numpy(np.array(value)) for name, value in tensors.items()})
        except RuntimeError as error:
            raise ManifestError(f"the calibrator's weights do not fit its network: {error}") from error
        network = network.eval().requires_grad_(False).to(device)
        return cls(network=network, kind=kind, eps=eps, side_px=side_px, device=device)

    def shift(self, clean: Image, degraded: Image | None) -> tuple[NDArray[np.float32], list[NDArray[np.float32]]]:
        """Return the field (3, H, W) and the changed members (clean, then degraded), float32, not rounded.

        Raises:
            ImageError: not (H, W, 3) uint8, or members of two sizes.
        """
        import torch

        images = [clean] if degraded is None else [clean, degraded]
        for image in images:
            check_image(image, where="calibrate")
            if image.shape != clean.shape:
                raise ImageError(f"calibrate: a pair of two sizes, clean {clean.shape}, degraded {image.shape}")
        with torch.inference_mode():
            low = self.network(network_input([small_view(clean, degraded, self.side_px)], self.device))[0]
            members = [to_tensor(image, self.device) for image in images]
            field = spread(low, members, kind=self.kind, eps=self.eps)
            return field.cpu().numpy(), [changed(member, field, self.kind).cpu().numpy() for member in members]

    def apply(self, clean: Image, degraded: Image | None) -> tuple[Deep, Deep | None]:
        """Return both members in 16 bits; an additive field is rounded once, so that the difference stays exact there too."""
        field, members = self.shift(clean, degraded)
        images = [clean] if degraded is None else [clean, degraded]
        if self.kind == ADDITIVE:
            deep = [image.astype(np.int32) * LEVEL for image in images]
            steps = np.rint(field.transpose(1, 2, 0) * np.float32(FULL)).astype(np.int32)
            steps = np.clip(steps, -np.minimum.reduce(deep), FULL - np.maximum.reduce(deep))
            done = [(image + steps).astype(np.uint16) for image in deep]
        else:
            scaled = [np.rint(member.transpose(1, 2, 0) * np.float32(FULL)) for member in members]
            done = [np.ascontiguousarray(np.clip(member, 0, FULL)).astype(np.uint16) for member in scaled]
        return done[0], done[1] if len(done) > 1 else None
