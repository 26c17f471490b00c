"""Fit the calibrating network to one subset: Adam on the losses of spec/tripled.md section 4.4, the best iterate kept.

The losses compare the whole subset with the corpus, so a step is done in three parts: all patches are looked at in chunks
without gradients; the losses' gradients are taken with respect to what was seen; each chunk is looked at again and its
share of the gradient goes back to the network. Memory holds one chunk a worker. Chunks are worked on by threads of one core each and
summed in order, so the number of threads changes no bit.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from curate.core.errors import ImageError, NumericsError
from curate.core.records import Image
from curate.encoders._loading import one_torch_thread

from .calibration import CalibrationRequest
from .field import FieldChange, build_network, changed, small_view, spread, to_tensor
from .mmd import mmd2_biased
from .moments import CROP_PX, NUM_MOMENTS, coral, draw_blocks, moments
from .yardstick import CLEAN, DEGRADED, Yardstick

if TYPE_CHECKING:
    import torch

Seen = dict[str, "torch.Tensor"]
_T, _R = TypeVar("_T"), TypeVar("_R")
_LEAST_PX = 8  # three average pools
_HISTORY_POINTS = 20  # of the held-out distance, for the manifest
_DRAWS, _NETWORK = 1, 2  # apart from the yardstick's draws


@dataclass(frozen=True, slots=True, kw_only=True)
class FitConfig:
    """The losses and the optimiser; names and values of spec/tripled.md sections 4.4 and 4.8 unless marked ours.

    Attributes:
        kind: `additive` or `log_gain` (for low light).
        eps_levels: largest change in levels of 8 bits (spec: 8; for haze 4).
        steps_iter: Adam steps.
        lr: its rate.
        grad_clip: largest norm of the gradient.
        l_r: weight of the random networks' moments.
        l_c: weight of the covariances.
        l_id: weight of the field's mean square.
        l_tv: weight of its total variation.
        subset_batch: patches of the subset a step: all of them up to so many.
        corpus_batch: patches of the corpus a step.
        check_every_iter: steps between looks at the held-out half where a step does not see the whole subset [OURS].
        chunk_patches: patches in memory a worker [OURS].
        moments_bf16: random networks in bfloat16 [OURS: 2.5 times faster on AVX-512 BF16, both sides alike].
    """

    kind: str = "additive"
    eps_levels: float = 8.0
    steps_iter: int = 500
    lr: float = 1e-3
    grad_clip: float = 1.0
    l_r: float = 1.0
    l_c: float = 0.1
    l_id: float = 0.05
    l_tv: float = 0.01
    subset_batch: int = 64
    corpus_batch: int = 256
    check_every_iter: int = 25
    chunk_patches: int = 4
    moments_bf16: bool = True

    @property
    def eps(self) -> float:
        """Largest change of values in [0, 1]."""
        return self.eps_levels / 255


@dataclass(frozen=True, slots=True, kw_only=True)
class Fitted:
    """What came out.

    Attributes:
        change: the network of the best step.
        before: member -> held-out MMD^2 of the untouched pixels, seen as the fit sees them.
        after: the same at the best step.
        kept_iter: the best step; 0: none was better than the start.
        history: (step, summed held-out MMD^2), evenly thinned.
        losses: last step's loss by name.
        row_error_frac: how far the encoder's rows of the untouched pixels are from the cached ones: median distance over
            the median distance of two patches.
        seconds: of the fit.
    """

    change: FieldChange
    before: dict[str, float]
    after: dict[str, float]
    kept_iter: int
    history: list[tuple[int, float]]
    losses: dict[str, float]
    row_error_frac: float
    seconds: float


def fit_field(request: CalibrationRequest, yardstick: Yardstick, config: FitConfig) -> Fitted:
    """Train the network.

    Raises:
        NumericsError: a loss or gradient is not finite.
        ImageError: a patch with a side under 8 px.
    """
    start = time.monotonic()
    on_cpu = request.device == "cpu"
    with one_torch_thread(on_cpu), ThreadPoolExecutor(request.workers if on_cpu else 1) as pool:
        fit = _Fit(request, yardstick, config, pool)
        best, history, losses = fit.run()
        change = FieldChange(
            network=fit.network_with(best.state), kind=config.kind, eps=config.eps, device=request.device
        )
    return Fitted(
        change=change, before=fit.start, after=best.distances, kept_iter=best.step, history=_thinned(history), losses=losses,
        row_error_frac=fit.row_error_frac, seconds=time.monotonic() - start,
    )  # fmt: skip


@dataclass(slots=True)
class _Best:
    step: int
    distances: dict[str, float]
    state: dict[str, Any] = field(default_factory=dict)

    @property
    def total(self) -> float:
        return sum(self.distances.values())


@dataclass(frozen=True, slots=True)
class _Chunk:
    """Places in the subset, and where their native crops lie, as shares of the room there is."""

    places: list[int]
    corners: NDArray[np.float64]


class _Fit:
    """One run's state: the network, what of the corpus it is compared with, and the pool."""

    def __init__(
        self, request: CalibrationRequest, yardstick: Yardstick, config: FitConfig, pool: ThreadPoolExecutor
    ) -> None:
        import torch

        self._request, self._yardstick, self._config, self._pool = request, yardstick, config, pool
        self._network = build_network(np.random.default_rng((request.seed, _NETWORK))).to(request.device)
        self._moments_dtype = torch.bfloat16 if config.moments_bf16 else torch.float32
        members = yardstick.members.items()
        self._fit = {name: self._tensor(member.fit) for name, member in members}
        self._bases = {name: (self._tensor(member.centre), self._tensor(member.basis)) for name, member in members}
        self._sees_all = len(request.chosen) <= config.subset_batch
        self._kept: dict[int, tuple[Image, Image | None]] = {}
        self.start: dict[str, float] = {}
        self.row_error_frac = 0.0

    def _tensor(self, values: NDArray[np.float64]) -> torch.Tensor:
        import torch

        return torch.from_numpy(values.astype(np.float32)).to(self._request.device)

    def network_with(self, state: dict[str, Any]) -> Any:
        """Return the network with the weights of one step, ready to be applied."""
        self._network.load_state_dict(state)
        return self._network.eval().requires_grad_(False)

    def run(self) -> tuple[_Best, list[tuple[int, float]], dict[str, float]]:
        """Take all steps; return the best one, the history and the last losses."""
        import torch

        config, watch = self._config, self._request.watch
        optimiser = torch.optim.Adam(self._network.parameters(), lr=config.lr)
        self.start = self._held_out(self._look_at_all())
        best = _Best(0, self.start, self._state())
        history, losses = [(0, best.total)], dict[str, float]()
        watch.begin(config.steps_iter, 0)
        for step in range(1, config.steps_iter + 1):
            losses = self._step(np.random.default_rng((self._request.seed, _DRAWS, step)), optimiser)
            if self._sees_all or step % config.check_every_iter == 0 or step == config.steps_iter:
                distances = self._held_out(self._look_at_all())
                history.append((step, sum(distances.values())))
                if history[-1][1] < best.total:
                    best = _Best(step, distances, self._state())
            watch.step(1)
        return best, history, losses

    def _state(self) -> dict[str, Any]:
        return {name: value.detach().clone() for name, value in self._network.state_dict().items()}

    def _step(self, rng: np.random.Generator, optimiser: torch.optim.Adam) -> dict[str, float]:
        import torch

        config, num = self._config, len(self._request.chosen)
        blocks = draw_blocks(rng, self._request.device, self._moments_dtype) if config.l_r > 0 else []
        fit_rows = self._yardstick.fit_rows
        real = rng.choice(len(fit_rows), min(config.corpus_batch, len(fit_rows)), replace=False)
        targets = self._corpus_moments(blocks, fit_rows[real], rng.random((len(real), 2))) if blocks else {}
        picks = np.arange(num) if self._sees_all else np.sort(rng.choice(num, config.subset_batch, replace=False))
        chunks = self._chunks(picks.tolist(), rng.random((len(picks), 2)))
        seen = _joined(self._map(lambda chunk: self._look(chunk, blocks), chunks, grad=False))
        loss, losses = self._losses(seen, {name: values[real] for name, values in self._fit.items()}, targets)
        gradients = dict(zip(seen, torch.autograd.grad(loss, list(seen.values())), strict=True))
        sizes = np.cumsum([0, *(len(chunk.places) for chunk in chunks)]).tolist()
        jobs = [
            (chunk, {name: gradient[start:stop] for name, gradient in gradients.items()})
            for chunk, start, stop in zip(chunks, sizes[:-1], sizes[1:], strict=True)
        ]
        shares = list(self._map(lambda job: self._backward(job[0], blocks, job[1]), jobs, grad=True))
        for parameter, parts in zip(self._network.parameters(), zip(*shares, strict=True), strict=True):
            parameter.grad = torch.stack(parts).sum(dim=0)
        norm = torch.nn.utils.clip_grad_norm_(self._network.parameters(), config.grad_clip)
        if not bool(torch.isfinite(norm)):
            raise NumericsError(f"calibrate cnn: the gradient is not finite (losses {losses}); lower calibrate.fit.lr")
        optimiser.step()
        return losses

    def _losses(self, seen: Seen, phi_fit: Seen, targets: Seen) -> tuple[torch.Tensor, dict[str, float]]:
        """Sum the losses over members; `seen` is made of leaves."""
        config, terms = self._config, dict[str, Any]()
        for name, member in self._yardstick.members.items():
            phi = seen[f"phi.{name}"].requires_grad_(True)
            terms[f"mmd2.{name}"] = mmd2_biased(phi, phi_fit[name], member.bandwidth)
            terms[f"coral.{name}"] = config.l_c * coral(phi, phi_fit[name])
            if name in targets:
                mean = seen[f"moments.{name}"].requires_grad_(True).mean(dim=0)
                terms[f"moments.{name}"] = config.l_r * (mean - targets[name]).square().sum() / NUM_MOMENTS
        terms["field"] = seen["field"].requires_grad_(True).mean()
        return sum(terms.values()), {name: float(term.detach()) for name, term in terms.items()}

    def _backward(self, chunk: _Chunk, blocks: Sequence[Any], gradients: Seen) -> tuple[torch.Tensor, ...]:
        import torch

        seen = self._look(chunk, blocks)
        return torch.autograd.grad(
            list(seen.values()), list(self._network.parameters()), [gradients[name] for name in seen]
        )

    def _look(self, chunk: _Chunk, blocks: Sequence[Any]) -> Seen:
        """See a chunk of the subset through the network, the encoder and the random networks.

        Returns:
            Tensors with one row a patch: `phi.x`, `moments.x` (with blocks), the same of `y` for pairs, `field` (c,).
        """
        import torch

        pairs = [self._patch(place) for place in chunk.places]
        views = np.stack([small_view(*pair) for pair in pairs])
        low_BCHW = self._network(torch.from_numpy(views).to(self._request.device))
        whole: dict[str, list[torch.Tensor]] = {name: [] for name in self._yardstick.members}
        crops: dict[str, list[torch.Tensor]] = {name: [] for name in self._yardstick.members}
        costs = []
        for low_CHW, pair, corner in zip(low_BCHW, pairs, chunk.corners, strict=True):
            members = [to_tensor(image, self._request.device) for image in pair if image is not None]
            d_CHW = spread(low_CHW, members, kind=self._config.kind, eps=self._config.eps)
            costs.append(self._cost(d_CHW))
            for name, member in zip((CLEAN, DEGRADED), members, strict=False):
                shifted = changed(member, d_CHW, self._config.kind)
                whole[name].append(self._global_view(shifted))
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

    def _global_view(self, image_CHW: torch.Tensor) -> torch.Tensor:
        """Shrink as `distill.views.global_view` does, but differentiably and without rounding to levels."""
        return shrink(image_CHW, int(self._request.encoder.input_px))

    def _phi(self, name: str, views_BCHW: torch.Tensor) -> torch.Tensor:
        import torch

        centre, basis = self._bases[name]
        with torch.autocast("cuda", dtype=torch.bfloat16, enabled=views_BCHW.is_cuda):
            rows = self._request.encoder.mean_token(views_BCHW)
        return (rows.float() - centre) @ basis

    def _corpus_moments(self, blocks: Sequence[Any], rows: NDArray[np.int64], corners: NDArray[np.float64]) -> Seen:
        """Mean moments of native crops of patches of the corpus, by member."""

        def look(chunk: _Chunk) -> Seen:
            pairs = [self._request.read(row) for row in chunk.places]
            seen = {}
            for number, name in enumerate(self._yardstick.members):
                images = [pair[number] for pair in pairs]
                crops = [
                    to_tensor(_cut_image(image, corner), self._request.device)
                    for image, corner in zip(images, chunk.corners, strict=True) if image is not None
                ]  # fmt: skip
                seen[name] = moments(blocks, crops)
            return seen

        return {
            name: values.mean(dim=0)
            for name, values in _joined(self._map(look, self._chunks(rows.tolist(), corners), grad=False)).items()
        }

    def _look_at_all(self) -> Seen:
        places = self._yardstick.chosen.tolist()
        chunks = self._chunks(places, np.zeros((len(places), 2)))
        return _joined(self._map(lambda chunk: self._look(chunk, ()), chunks, grad=False))

    def _held_out(self, seen: Seen) -> dict[str, float]:
        found = {}
        for name, member in self._yardstick.members.items():
            found[name] = member.distance(seen[f"phi.{name}"].double().cpu().numpy())
        return found

    def _patch(self, place: int) -> tuple[Image, Image | None]:
        """Read one patch of the subset; a subset that fits into a step is kept in memory."""
        if place in self._kept:
            return self._kept[place]
        pair = self._request.read(int(self._request.chosen[place]))
        if min(pair[0].shape[:2]) < _LEAST_PX:
            raise ImageError(
                f"calibrate: a patch of {pair[0].shape[1]}x{pair[0].shape[0]}; sides must be >= {_LEAST_PX}"
            )
        if self._sees_all:
            self._kept[place] = pair
        return pair

    def _chunks(self, places: list[int], corners: NDArray[np.float64]) -> list[_Chunk]:
        size = self._config.chunk_patches
        return [_Chunk(places[at : at + size], corners[at : at + size]) for at in range(0, len(places), size)]

    def _map(self, work: Callable[[_T], _R], items: Iterable[_T], *, grad: bool) -> Iterable[_R]:
        """Work on items in threads, answers in order; whether gradients are kept is each thread's own."""
        import torch

        def job(item: _T) -> _R:
            with torch.set_grad_enabled(grad):
                return work(item)

        return self._pool.map(job, items)


def shrink(image_CHW: torch.Tensor, side_px: int) -> torch.Tensor:
    """Resize (3, H, W) to a square: bicubic with antialiasing, as Pillow does; values are held in [0, 1]."""
    from torch.nn import functional

    shape = (side_px, side_px)
    return functional.interpolate(image_CHW[None], size=shape, mode="bicubic", antialias=True)[0].clamp(0, 1)


def _joined(parts: Iterable[Seen]) -> Seen:
    import torch

    found = list(parts)
    return {name: torch.cat([part[name] for part in found]).detach() for name in found[0]}


def _cut(image_CHW: torch.Tensor, corner: NDArray[np.float64]) -> torch.Tensor:
    height, width = image_CHW.shape[1:]
    (top, bottom), (left, right) = _span(height, corner[0]), _span(width, corner[1])
    return image_CHW[:, top:bottom, left:right]


def _cut_image(image: Image, corner: NDArray[np.float64]) -> Image:
    (top, bottom), (left, right) = _span(image.shape[0], corner[0]), _span(image.shape[1], corner[1])
    return image[top:bottom, left:right]


def _span(length: int, share: float) -> tuple[int, int]:
    side = min(length, CROP_PX)
    start = int(share * (length - side + 1))
    return start, start + side


def _thinned(history: list[tuple[int, float]]) -> list[tuple[int, float]]:
    step = max(1, -(-len(history) // _HISTORY_POINTS))
    return [*history[:-1:step], history[-1]]
