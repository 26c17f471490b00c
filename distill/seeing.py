"""See patches as the calibration does: through the field, the encoder and the random networks, differentiably.

Patches are looked at in chunks by threads of one core each, and answers are joined in order: the number of threads changes no
bit, and memory holds one chunk's graph a worker.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from curate.core.errors import ImageError
from curate.core.records import Image

from .calibration import CalibrationRequest
from .field import build_network, changed, network_input, small_view, spread, to_tensor
from .fitconfig import FitConfig
from .moments import CROP_PX, moments
from .yardstick import CLEAN, DEGRADED, Yardstick

if TYPE_CHECKING:
    import torch

Seen = dict[str, "torch.Tensor"]
_T = TypeVar("_T")
_R = TypeVar("_R")
_LEAST_PX = 8  # three average pools
_NETWORK = 2  # apart from the fit's and the yardstick's draws


@dataclass(frozen=True, slots=True)
class Chunk:
    """Places in the subset (or rows of the corpus), and where their native crops lie, as shares of the room there is."""

    places: list[int]
    corners: NDArray[np.float64]


class Sight:
    """The network at its start, and everything a look at patches needs."""

    def __init__(
        self,
        request: CalibrationRequest,
        yardstick: Yardstick,
        config: FitConfig,
        device: str,
        pool: ThreadPoolExecutor,
    ) -> None:
        self._request, self._config, self._device, self._pool = request, config, device, pool
        self.network = build_network(np.random.default_rng((request.seed, _NETWORK))).to(device)
        self._bases = {
            name: (self.tensor(member.centre), self.tensor(member.basis)) for name, member in yardstick.members.items()
        }
        self.sees_all = len(request.chosen) <= config.subset_batch
        self._kept: dict[int, tuple[Image, Image | None]] = {}

    def tensor(self, values: NDArray[np.float64]) -> torch.Tensor:
        """Put an array on the device as float32."""
        import torch

        return torch.from_numpy(values.astype(np.float32)).to(self._device)

    def chunks(self, places: Sequence[int], corners: NDArray[np.float64]) -> list[Chunk]:
        """Cut into chunks of the configured size."""
        size = self._config.chunk_patches
        return [Chunk(list(places[at : at + size]), corners[at : at + size]) for at in range(0, len(places), size)]

    def subset(self, chunks: Sequence[Chunk], blocks: Sequence[Any]) -> Seen:
        """Look at patches of the subset without gradients.

        Returns:
            One row a patch: `phi.x`, `moments.x` (with blocks), the same of `y` for pairs, and `field`, its cost.
        """
        return _joined(self._map(lambda chunk: self.look(chunk, blocks), chunks, grad=False))

    def corpus(self, chunks: Sequence[Chunk], blocks: Sequence[Any]) -> Seen:
        """Mean moments of native crops of untouched patches of the corpus, by member."""
        found = _joined(self._map(lambda chunk: self._moments(chunk, blocks), chunks, grad=False))
        return {name: values.mean(dim=0) for name, values in found.items()}

    def gradients(self, chunks: Sequence[Chunk], blocks: Sequence[Any], of_seen: Seen) -> list[torch.Tensor]:
        """Turn gradients with respect to what was seen into those of the network's parameters, summed in order.

        Args:
            chunks: as given to `subset`.
            blocks: the same.
            of_seen: by name, as `subset` answered.
        """
        import torch

        parameters = list(self.network.parameters())

        def work(job: tuple[Chunk, Seen]) -> tuple[torch.Tensor, ...]:
            seen = self.look(job[0], blocks)
            return torch.autograd.grad(list(seen.values()), parameters, [job[1][name] for name in seen])

        ends = np.cumsum([len(chunk.places) for chunk in chunks]).tolist()
        jobs = [
            (chunk, {name: values[end - len(chunk.places) : end] for name, values in of_seen.items()})
            for chunk, end in zip(chunks, ends, strict=True)
        ]
        shares = list(self._map(work, jobs, grad=True))
        return [torch.stack(parts).sum(dim=0) for parts in zip(*shares, strict=True)]

    def look(self, chunk: Chunk, blocks: Sequence[Any]) -> Seen:
        """See one chunk of the subset; see `subset`."""
        import torch

        pairs = [self._patch(place) for place in chunk.places]
        views = [small_view(*pair, self._config.side_px) for pair in pairs]
        low_BCHW = self.network(network_input(views, self._device))
        whole: dict[str, list[torch.Tensor]] = {name: [] for name in self._bases}
        crops: dict[str, list[torch.Tensor]] = {name: [] for name in self._bases}
        costs = []
        for low_CHW, pair, corner in zip(low_BCHW, pairs, chunk.corners, strict=True):
            members = [to_tensor(image, self._device) for image in pair if image is not None]
            d_CHW = spread(low_CHW, members, kind=self._config.kind, eps=self._config.eps)
            costs.append(self._cost(d_CHW))
            for name, member in zip((CLEAN, DEGRADED), members, strict=False):
                shifted = changed(member, d_CHW, self._config.kind)
                whole[name].append(shrink(shifted, int(self._request.encoder.input_px)))
                crops[name].append(_cut(shifted, corner))
        seen = {f"phi.{name}": self._phi(name, torch.stack(values)) for name, values in whole.items()}
        if blocks:
            seen |= {f"moments.{name}": moments(blocks, values) for name, values in crops.items()}
        return seen | {"field": torch.stack(costs)}

    def _cost(self, d_CHW: torch.Tensor) -> torch.Tensor:
        """What a field costs: l_id mean(d^2) / eps^2 + l_tv mean|grad d| / eps."""
        config = self._config
        across, down = d_CHW.diff(dim=2).abs().mean(), d_CHW.diff(dim=1).abs().mean()
        return config.l_id * d_CHW.square().mean() / config.eps**2 + config.l_tv * (across + down) / config.eps

    def _phi(self, name: str, views_BCHW: torch.Tensor) -> torch.Tensor:
        import torch

        centre, basis = self._bases[name]
        with torch.autocast("cuda", dtype=torch.bfloat16, enabled=views_BCHW.is_cuda):
            rows = self._request.encoder.mean_token(views_BCHW)
        phi: torch.Tensor = (rows.float() - centre) @ basis
        return phi

    def _moments(self, chunk: Chunk, blocks: Sequence[Any]) -> Seen:
        pairs = [self._request.read(row) for row in chunk.places]
        seen: dict[str, torch.Tensor] = {}
        for number, name in enumerate(self._bases):
            images = [image for pair in pairs if (image := pair[number]) is not None]
            crops = [
                _cut(to_tensor(image, self._device), corner)
                for image, corner in zip(images, chunk.corners, strict=True)
            ]
            seen[name] = moments(blocks, crops)
        return seen

    def _patch(self, place: int) -> tuple[Image, Image | None]:
        """Read one patch of the subset; a subset that fits into a step is kept in memory."""
        if place in self._kept:
            return self._kept[place]
        pair = self._request.read(int(self._request.chosen[place]))
        height, width = pair[0].shape[:2]
        if min(height, width) < _LEAST_PX:
            raise ImageError(f"calibrate cnn: a chosen patch is {width}x{height}; sides must be >= {_LEAST_PX} px")
        if self.sees_all:
            self._kept[place] = pair
        return pair

    def _map(self, work: Callable[[_T], _R], items: Iterable[_T], *, grad: bool) -> Iterable[_R]:
        """Work on items in threads, answers in order; whether gradients are kept is each thread's own."""
        import torch

        def job(item: _T) -> _R:
            with torch.set_grad_enabled(grad):
                return work(item)

        return self._pool.map(job, items)


def shrink(image_CHW: torch.Tensor, side_px: int) -> torch.Tensor:
    """Resize (3, H, W) to a square as `distill.views.global_view` does, but differentiably and without rounding to levels.

    Bicubic with antialiasing, as Pillow's; values are held in [0, 1].
    """
    from torch.nn import functional

    shape = (side_px, side_px)
    return functional.interpolate(image_CHW[None], size=shape, mode="bicubic", antialias=True)[0].clamp(0, 1)


def _joined(parts: Iterable[Seen]) -> Seen:
    import torch

    found = list(parts)
    return {name: torch.cat([part[name] for part in found]).detach() for name in found[0]}


def _cut(image_CHW: torch.Tensor, corner: NDArray[np.float64]) -> torch.Tensor:
    height, width = image_CHW.shape[1:]
    (top, bottom), (left, right) = _span(height, float(corner[0])), _span(width, float(corner[1]))
    return image_CHW[:, top:bottom, left:right]


def _span(length: int, share: float) -> tuple[int, int]:
    side = min(length, CROP_PX)
    start = int(share * (length - side + 1))
    return start, start + side
