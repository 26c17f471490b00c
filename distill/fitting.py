"""Fit the calibrating network to one subset: Adam on the losses of spec/tripled.md section 4.4, the best iterate kept.

The losses compare the whole subset with the corpus, so a step is done in three parts: all patches are looked at in chunks
without gradients; the losses' gradients are taken with respect to what was seen; each chunk is looked at again and its
share of the gradient goes back to the network. What the first part sees of a whole subset also says how far the network of the
step before is from the held-out half.
"""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from curate.core.errors import ConfigError, NumericsError
from curate.encoders._lean_vit import resolve_device
from curate.encoders._loading import one_torch_thread

from .calibration import CalibrationRequest
from .field import FieldChange
from .fitconfig import FitConfig
from .fitstate import SAVE_EVERY_STEPS, fit_key, load_state, save_state
from .mmd import mmd2_biased
from .moments import NUM_MOMENTS, coral, draw_blocks
from .seeing import Seen, Sight
from .yardstick import Yardstick

if TYPE_CHECKING:
    import torch

_HISTORY_POINTS = 20  # of the held-out distance, for the manifest
_DRAWS = 1  # apart from the network's and the yardstick's
_MAX_ROW_ERROR_FRAC = 0.25  # ours: rows of the same pictures, resized by Pillow and by torch, differ by 0.01 or so
_DIGITS = 9


@dataclass(frozen=True, slots=True, kw_only=True)
class Fitted:
    """What came out.

    Attributes:
        change: the network of the best step.
        before: member -> held-out MMD^2 of the untouched pixels, seen as the fit sees them.
        after: the same at the best step.
        kept_step: the best step; 0: none was better than the start.
        history: (step, summed held-out MMD^2), thinned; holds the first, the best and the last step.
        losses: last step's loss by name.
        row_error_frac: how far the encoder's rows of the untouched pixels are from the cached ones: median distance over
            the kernel's bandwidth (the median distance of two patches).
        seconds: of the fit, in this run.
        steps_taken: in this run; fewer than all where an earlier run was killed.
    """

    change: FieldChange
    before: dict[str, float]
    after: dict[str, float]
    kept_step: int
    history: list[tuple[int, float]]
    losses: dict[str, float]
    row_error_frac: float
    seconds: float
    steps_taken: int

    @property
    def fall(self) -> float:
        """How much nearer the best step is than the untouched pixels."""
        return sum(self.before.values()) - sum(self.after.values())


def fit_field(request: CalibrationRequest, yardstick: Yardstick, config: FitConfig) -> Fitted:
    """Train the network, or go on where a killed run was (`request.state`).

    Raises:
        ConfigError: the request's rows are not the encoder's mean tokens.
        NumericsError: a loss or gradient is not finite.
        ImageError: a patch with a side under 8 px.
    """
    start, device = time.monotonic(), resolve_device(request.device)
    on_cpu = device == "cpu"
    with one_torch_thread(on_cpu), ThreadPoolExecutor(request.workers if on_cpu else 1) as pool:
        fit = _Fit(request, yardstick, config, device, pool)
        fit.run()
    network = fit.sight.network
    network.load_state_dict(fit.best.state)
    change = FieldChange(
        network=network.eval().requires_grad_(False),
        kind=config.kind,
        eps=config.eps,
        side_px=config.side_px,
        device=device,
    )
    return Fitted(
        change=change, before=fit.start, after=fit.best.distances, kept_step=fit.best.step, losses=fit.losses,
        history=_thinned(fit.history, fit.best.step), row_error_frac=fit.row_error_frac, seconds=time.monotonic() - start,
        steps_taken=fit.steps_taken,
    )  # fmt: skip


@dataclass(slots=True)
class _Best:
    step: int = 0
    distances: dict[str, float] = field(default_factory=dict)
    state: dict[str, Any] = field(default_factory=dict)

    @property
    def total(self) -> float:
        return sum(self.distances.values())


class _Fit:
    """One run: the network, what of the corpus it is compared with, and the best step so far."""

    def __init__(
        self,
        request: CalibrationRequest,
        yardstick: Yardstick,
        config: FitConfig,
        device: str,
        pool: ThreadPoolExecutor,
    ) -> None:
        self._request, self._yardstick, self._config, self._device = request, yardstick, config, device
        self.sight = Sight(request, yardstick, config, device, pool)
        self._fit = {name: self.sight.tensor(member.fit) for name, member in yardstick.members.items()}
        self.best, self.start = _Best(), dict[str, float]()
        self.history, self.losses, self.row_error_frac = list[tuple[int, float]](), dict[str, float](), 0.0
        self.steps_taken = 0

    def run(self) -> None:
        """Take all steps, or those that are left."""
        import torch

        config, watch, path = self._config, self._request.watch, self._request.state
        optimiser = torch.optim.Adam(self.sight.network.parameters(), lr=config.lr)
        key = fit_key(self._request, self._yardstick, config, self._device)
        found = None if path is None else load_state(path, key)
        done = 0 if found is None else self._restore(found, optimiser)
        if found is None:
            self._begin(self._look_at_all())
        watch.begin(config.steps_iter, done, label="calibrate", unit="steps")
        for step in range(done + 1, config.steps_iter + 1):
            self._step(step, optimiser)
            is_last = step == config.steps_iter
            if is_last or not (self.sight.sees_all or step % config.check_every_iter):
                self._judge(step, self._look_at_all())
            self.steps_taken += 1
            if path is not None and (is_last or step % SAVE_EVERY_STEPS == 0):
                save_state(path, key, self._state(step, optimiser))
            watch.step(1)

    def _state(self, step: int, optimiser: torch.optim.Adam) -> dict[str, Any]:
        """Collect what `_restore` takes: tensors and plain values."""
        return {
            "step": step, "network": self.sight.network.state_dict(), "optimiser": optimiser.state_dict(),
            "best": [self.best.step, self.best.distances, self.best.state], "start": self.start,
            "history": [list(point) for point in self.history], "losses": self.losses,
            "row_error_frac": self.row_error_frac,
        }  # fmt: skip

    def _restore(self, state: dict[str, Any], optimiser: torch.optim.Adam) -> int:
        """Go back to where `_state` was called; return the step."""
        self.sight.network.load_state_dict(state["network"])
        optimiser.load_state_dict(state["optimiser"])
        self.best, self.start = _Best(*state["best"]), state["start"]
        self.history = [(step, total) for step, total in state["history"]]
        self.losses, self.row_error_frac = state["losses"], state["row_error_frac"]
        return int(state["step"])

    def _begin(self, seen: Seen) -> None:
        """Judge the untouched subset, and make sure that the encoder sees in it what was cached."""
        yardstick, chosen = self._yardstick, self._request.chosen[self._yardstick.chosen]
        for name, rows in self._request.members().items():
            member = yardstick.members[name]
            errors = np.linalg.norm(seen[f"phi.{name}"].cpu().numpy() - member.project(rows[chosen]), axis=1)
            self.row_error_frac = max(self.row_error_frac, round(float(np.median(errors)) / member.bandwidth, _DIGITS))
        if not self.row_error_frac <= _MAX_ROW_ERROR_FRAC:
            raise ConfigError(
                f"calibrate cnn: the rows of the corpus are not the mean tokens of encoder {self._request.encoder.name} "
                f"(they differ by {self.row_error_frac:.2f} of the distance between patches, allowed {_MAX_ROW_ERROR_FRAC}); "
                "score the corpus again with this encoder"
            )
        self._judge(0, seen)
        self.start = self.best.distances

    def _judge(self, step: int, seen: Seen) -> None:
        """Note the held-out distance after a step, and keep the network if it is the nearest so far."""
        distances = {
            name: member.distance(seen[f"phi.{name}"].double().cpu().numpy())
            for name, member in self._yardstick.members.items()
        }
        total = sum(distances.values())
        if not np.isfinite(total):
            raise NumericsError(f"calibrate cnn: the distance after step {step} is not finite; lower cnn.fit.lr")
        self.history.append((step, total))
        if step == 0 or total < self.best.total:
            state = {name: value.detach().clone() for name, value in self.sight.network.state_dict().items()}
            self.best = _Best(step, distances, state)

    def _step(self, step: int, optimiser: torch.optim.Adam) -> None:
        import torch

        config, sight, num = self._config, self.sight, len(self._request.chosen)
        rng = np.random.default_rng((self._request.seed, _DRAWS, step))
        blocks = self._draw_blocks(rng)
        fit_rows, weights = self._yardstick.fit_rows, self._yardstick.fit_weights
        size = min(config.corpus_batch, len(fit_rows))
        real = rng.choice(len(fit_rows), size, replace=weights is not None, p=weights)
        looked_at = fit_rows[real[: config.corpus_crops]]
        corners = rng.random((len(looked_at), 2))
        targets = sight.corpus(sight.chunks(looked_at.tolist(), corners), blocks) if blocks else {}
        picks = np.arange(num) if sight.sees_all else np.sort(rng.choice(num, config.subset_batch, replace=False))
        chunks = sight.chunks(picks.tolist(), rng.random((len(picks), 2)))
        seen = sight.subset(chunks, blocks)
        if sight.sees_all and step > 1:
            self._judge(step - 1, seen)
        loss = self._loss(seen, {name: values[real] for name, values in self._fit.items()}, targets)
        of_seen = dict(zip(seen, torch.autograd.grad(loss, list(seen.values())), strict=True))
        for parameter, gradient in zip(
            sight.network.parameters(), sight.gradients(chunks, blocks, of_seen), strict=True
        ):
            parameter.grad = gradient
        norm = torch.nn.utils.clip_grad_norm_(sight.network.parameters(), config.grad_clip)
        if not bool(torch.isfinite(norm)):
            raise NumericsError(f"calibrate cnn: the gradient of step {step} is not finite; lower cnn.fit.lr")
        optimiser.step()

    def _draw_blocks(self, rng: np.random.Generator) -> list[Any]:
        import torch

        dtype = torch.bfloat16 if self._config.moments_bf16 else torch.float32
        return list(draw_blocks(rng, self._device, dtype)) if self._config.l_r > 0 else []

    def _loss(self, seen: Seen, phi_fit: Seen, targets: Seen) -> torch.Tensor:
        """Sum the losses over members and note them; `seen` is made of leaves."""
        config, terms = self._config, dict[str, Any]()
        for values in seen.values():
            values.requires_grad_(True)
        for name, member in self._yardstick.members.items():
            phi = seen[f"phi.{name}"]
            terms[f"mmd2.{name}"] = mmd2_biased(phi, phi_fit[name], member.bandwidth)
            terms[f"coral.{name}"] = config.l_c * coral(phi, phi_fit[name])
            if name in targets:
                away = seen[f"moments.{name}"].mean(dim=0) - targets[name]
                terms[f"moments.{name}"] = config.l_r * away.square().sum() / NUM_MOMENTS
        cost = seen["field"].mean()
        self.losses = {name: round(float(term.detach()), _DIGITS) for name, term in (terms | {"field": cost}).items()}
        total: torch.Tensor = sum(terms.values(), start=cost)
        return total

    def _look_at_all(self) -> Seen:
        places = self._yardstick.chosen.tolist()
        return self.sight.subset(self.sight.chunks(places, np.zeros((len(places), 2))), ())


def _thinned(history: list[tuple[int, float]], kept: int) -> list[tuple[int, float]]:
    every = max(1, -(-len(history) // _HISTORY_POINTS))
    last = len(history) - 1
    return [point for at, point in enumerate(history) if at % every == 0 or at == last or point[0] == kept]
