"""Three convolutions and a skip: a network for tests, so that they finish. Source: ours."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn

from curate.core.errors import ConfigError

from . import TrainingDefaults


@dataclass(frozen=True, slots=True, kw_only=True)
class Config:
    """Size of the network: 1,027 parameters by default.

    Attributes:
        channels: of the two hidden layers.
    """

    channels: int = 8

    def __post_init__(self) -> None:
        """Check ranges."""
        if not self.channels >= 1:
            raise ConfigError(f"tiny.channels must be >= 1, got {self.channels}")


class Tiny(nn.Module):
    """Convolve three times and add the input; `choice` is accepted and means nothing."""

    config_type: ClassVar = Config
    align_px: ClassVar[int] = 1
    PRESETS: ClassVar[Mapping[str, Config]] = {"": Config()}
    TRAINING: ClassVar[Mapping[str, TrainingDefaults]] = {"": TrainingDefaults(peak_lr=2e-3, batch_size=4, crop_px=32)}

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.config = config
        self.depths: dict[str, tuple[int, ...]] = {}
        self.reuse: tuple[int, ...] = ()
        self.tasks: dict[str, int] = {}
        self.first = nn.Conv2d(3, config.channels, 3, padding=1)
        self.second = nn.Conv2d(config.channels, config.channels, 3, padding=1)
        self.last = nn.Conv2d(config.channels, 3, 3, padding=1)
        for parameter in self.last.parameters():
            nn.init.zeros_(parameter)

    def forward(self, x_BCHW: Tensor, choice: None = None) -> Tensor:
        """Restore (B, 3, H, W) to the same shape."""
        hidden = torch.relu(self.second(torch.relu(self.first(x_BCHW))))
        return x_BCHW + self.last(hidden)  # type: ignore[no-any-return]


Plugin = Tiny
