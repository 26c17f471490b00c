"""Complexity as the loss of a small network that was trained on the corpus itself: what is hard to restore is complex.

An SRCNN learns to undo bicubic x2 on random crops of the corpus; a patch's number is ln(1 + mean squared error of its luma in
8-bit levels). It is what the selector `moser_loss` reads. Moser et al. start from a trained network; nobody ships one for a
user's corpus, so a few hundred steps are made here, once, and kept with the features. Deterministic on one kind of CPU.

Source: Moser et al., arXiv 2403.17083 (loss of a small SRCNN); network: Dong et al., TPAMI 2016 (9-1-5, 64 and 32 filters);
spec/tripled.md sections 2b and 4.3.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
from numpy.typing import NDArray
from PIL import Image as PillowImage

from curate import Dataset
from curate.core.artifacts import atomic_path
from curate.core.errors import ConfigError, NumericsError
from curate.core.images import luma
from curate.core.records import Image

from ..measure import Look, Patches, Scores
from ..reading import PatchReader

if TYPE_CHECKING:
    import torch

_LEVELS = 255.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Plugin:
    """ln(1 + MSE of an SRCNN's x2 luma in 8-bit levels), >= 0; 0 for one colour.

    Attributes:
        scale: of the bicubic damage.
        num_patches: patches of the corpus it learns from, drawn at random.
        steps: of training.
        batch_size: crops a step.
        crop_px: their side.
        learning_rate: of Adam.
        seed: of the draws and of the network's start.
    """

    name: ClassVar[str] = "network_loss"
    uses_torch: ClassVar[bool] = True
    looks_at_tokens: ClassVar[bool] = False
    values: ClassVar[tuple[str, ...]] = ("log_loss",)
    scale: int = 2  # the least of SRCNN's own scales
    num_patches: int = 256  # ours: fits in memory (64 MiB of luma)
    steps: int = 300  # ours: the loss is flat from there on on photographs, 20 s on one core
    batch_size: int = 16  # DeepCore's and SRCNN re-implementations' usual
    crop_px: int = 48
    learning_rate: float = 1e-3
    seed: int = 0

    def __post_init__(self) -> None:
        for name in ("num_patches", "steps", "batch_size"):
            if not getattr(self, name) >= 1:
                raise ConfigError(f"{self.name}.{name} must be >= 1, got {getattr(self, name)}")
        if not self.scale >= 2:
            raise ConfigError(f"{self.name}.scale must be >= 2, got {self.scale}")
        if not self.crop_px >= 16:
            raise ConfigError(f"{self.name}.crop_px must be >= 16, got {self.crop_px}")
        if not 0 < self.learning_rate < 1:
            raise ConfigError(f"{self.name}.learning_rate must lie in (0, 1), got {self.learning_rate}")

    def prepare(self, corpus: Dataset, folder: Path) -> Look:
        """Train the network, or take the one that an earlier run left in `folder`."""
        import torch
        from safetensors.torch import load_file, save_file

        path, net = folder / f"{self.name}.safetensors", _network(self.seed)
        if path.is_file():
            net.load_state_dict(load_file(path))
        else:
            self._train(net, corpus)
            with atomic_path(path) as temporary:
                save_file(net.state_dict(), temporary)
        net.eval()

        def look(patches: Patches) -> NDArray[np.float64]:
            with torch.inference_mode():
                return np.array([[self._log_loss(net, image)] for image in patches.clean], dtype=np.float64)

        return look

    def finish(self, values_NK: NDArray[np.float64], groups_N: NDArray[np.int64]) -> Scores:
        """Take it as it is."""
        return Scores(complexity=values_NK[:, 0])

    def _log_loss(self, net: torch.nn.Module, image: Image) -> float:
        clean, damaged = self._pair(image)
        if (clean == clean[0, 0]).all():
            return 0.0
        error = (net(_batch([damaged])) - _batch([clean])).double() * _LEVELS
        return round(float((error * error).mean().log1p()), 6)  # the rest is rounding of the machine

    def _pair(self, image: Image) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
        """Return luma and its bicubic round trip, (H, W) uint8."""
        clean = luma(image)
        height, width = clean.shape
        small = (max(1, round(width / self.scale)), max(1, round(height / self.scale)))
        bicubic = PillowImage.Resampling.BICUBIC
        return clean, np.asarray(PillowImage.fromarray(clean).resize(small, bicubic).resize((width, height), bicubic))

    def _train(self, net: torch.nn.Module, corpus: Dataset) -> None:
        import torch

        rng = np.random.default_rng(self.seed)
        pairs = list(self._pairs(corpus, rng))
        optimiser = torch.optim.Adam(net.parameters(), lr=self.learning_rate)
        for _ in range(self.steps):
            crops = [self._crop(*pairs[int(rng.integers(len(pairs)))], rng) for _ in range(self.batch_size)]
            loss = torch.nn.functional.mse_loss(
                net(_batch([damaged for _, damaged in crops])), _batch([clean for clean, _ in crops])
            )
            optimiser.zero_grad(set_to_none=True)
            loss.backward()  # type: ignore[no-untyped-call]
            optimiser.step()
        if not bool(torch.isfinite(loss)):
            raise NumericsError(f"{self.name}: the loss became {float(loss)}; lower learning_rate {self.learning_rate}")

    def _pairs(
        self, corpus: Dataset, rng: np.random.Generator
    ) -> Iterator[tuple[NDArray[np.uint8], NDArray[np.uint8]]]:
        keys = np.sort(np.array(corpus.rows(["key"]).column("key").to_pylist()))
        chosen = np.sort(rng.permutation(len(keys))[: self.num_patches])
        with PatchReader(corpus, keys[chosen]) as reader:
            for row in range(len(chosen)):
                yield self._pair(reader.read(row)[0])

    def _crop(
        self, clean: NDArray[np.uint8], damaged: NDArray[np.uint8], rng: np.random.Generator
    ) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
        """Cut one place out of both; a smaller patch is continued by reflection."""
        missing = [max(0, self.crop_px - side) for side in clean.shape]
        if any(missing):
            pad = [(0, rows) for rows in missing]
            clean, damaged = (np.pad(plane, pad, mode="symmetric") for plane in (clean, damaged))
        top, left = (int(rng.integers(side - self.crop_px + 1)) for side in clean.shape)
        place = np.s_[top : top + self.crop_px, left : left + self.crop_px]
        return clean[place], damaged[place]


def _network(seed: int) -> torch.nn.Module:
    import torch

    class Residual(torch.nn.Module):
        """SRCNN that learns what bicubic misses: starts near the right answer."""

        def __init__(self) -> None:
            super().__init__()
            self.body = torch.nn.Sequential(
                torch.nn.Conv2d(1, 64, 9, padding=4, padding_mode="replicate"), torch.nn.ReLU(),
                torch.nn.Conv2d(64, 32, 1), torch.nn.ReLU(),
                torch.nn.Conv2d(32, 1, 5, padding=2, padding_mode="replicate"),
            )  # fmt: skip

        def forward(self, x_B1HW: torch.Tensor) -> torch.Tensor:
            out: torch.Tensor = x_B1HW + self.body(x_B1HW)
            return out

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return Residual()


def _batch(planes: list[NDArray[np.uint8]]) -> Any:
    import torch

    return torch.from_numpy(np.stack(planes).astype(np.float32)[:, None] / np.float32(_LEVELS))
