"""One training step and the state behind it: network, moving average, optimiser. Knows nothing of files or data."""

from __future__ import annotations

from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from curate.core.errors import ConfigError

from .data import Batch
from .losses import l1
from .models import channels_last, make_model
from .models._precision import float32_exactly
from .speed import accelerate, uses_bf16


@dataclass(frozen=True, slots=True, kw_only=True)
class OptimiserConfig:
    """How weights follow gradients.

    Attributes:
        beta1: AdamW's first momentum.
        beta2: its second.
        weight_decay: its decay, decoupled.
        max_grad_norm: gradients longer than this are shortened to it.
        ema_decay: of the moving average of the weights; in the first steps it is (1 + n) / (10 + n) where that is smaller.
        precision: of the forward pass: `bf16` autocast, `float32`, or `auto`: bf16 on CUDA only (docs/speed.md).
        compiled: fuse the step with `torch.compile`: minutes before the first step, then faster ones.
    """

    beta1: float = 0.9  # spec/dynet.md 2.2 (torch's own)
    beta2: float = 0.99  # published: 0.999; short runs learn faster with 0.99: docs/log.md
    weight_decay: float = 1e-4  # spec/dynet.md 2.3
    max_grad_norm: float = 1.0
    ema_decay: float = 0.999  # spec/tripled.md 4.5
    precision: str = "auto"
    compiled: bool = False

    def __post_init__(self) -> None:
        """Check ranges."""
        for name in ("beta1", "beta2", "ema_decay"):
            if not 0 <= getattr(self, name) < 1:
                raise ConfigError(f"optimiser.{name} must be in [0, 1), got {getattr(self, name)}")
        if not self.weight_decay >= 0 or not self.max_grad_norm > 0:
            raise ConfigError("optimiser needs weight_decay >= 0 and max_grad_norm > 0")
        try:
            uses_bf16(self.precision, torch.device("cpu"))
        except ConfigError as error:
            raise ConfigError(f"optimiser.{error}") from error


class Trainer:
    """A network being trained; every step changes it in place."""

    def __init__(self, model_name: str, config: OptimiserConfig, *, device: torch.device, seed: int) -> None:
        torch.manual_seed(seed)
        self.model: nn.Module = channels_last(make_model(model_name)).to(device).train()
        self.ema = {name: value.detach().clone() for name, value in self.model.state_dict().items()}
        self.device = device
        self._config = config
        self._network = accelerate(self.model, precision=config.precision, compiled=config.compiled)
        self._optimiser = torch.optim.AdamW(
            self.model.parameters(), lr=0.0, betas=(config.beta1, config.beta2), weight_decay=config.weight_decay,
            fused=device.type in ("cpu", "cuda"),
        )  # fmt: skip

    def step(self, batch: Batch, *, lr: float) -> tuple[Tensor, Tensor]:
        """Learn from one batch; return (loss, gradient norm before clipping), both still on the device."""
        lq_BCHW, hq_BCHW = self._to_device(batch.lq), self._to_device(batch.hq)
        bf16 = uses_bf16(self._config.precision, self.device)
        with nullcontext() if bf16 else float32_exactly(self.device.type):
            loss = l1(self._network(lq_BCHW), hq_BCHW)
            self._optimiser.zero_grad(set_to_none=True)
            loss.backward()  # type: ignore[no-untyped-call]
        norm = torch.nn.utils.clip_grad_norm_(self.model.parameters(), self._config.max_grad_norm)
        for group in self._optimiser.param_groups:
            group["lr"] = lr
        self._optimiser.step()
        self._average(batch.step)
        return loss.detach(), norm.detach()

    @torch.inference_mode()
    def restore(self, lq_BCHW: Tensor) -> Tensor:
        """Run the network with its averaged weights; float32, not clamped, on the CPU."""
        self.model.eval()
        with float32_exactly(self.device.type):
            output: Tensor = torch.func.functional_call(self.model, self.ema, (lq_BCHW.to(self.device),))
        self.model.train()
        return output.float().cpu()

    def state(self) -> dict[str, Any]:
        """Return what resuming needs beside the weights: plain values and tensors."""
        state: dict[str, Any] = {"optimiser": self._optimiser.state_dict(), "torch_rng": torch.get_rng_state()}
        if self.device.type == "cuda":
            state["cuda_rng"] = torch.cuda.get_rng_state(self.device)
        return state

    def load(self, ema: dict[str, Tensor], state: dict[str, Any]) -> None:
        """Take up a saved state; the weights themselves are already in `model`."""
        self.ema = {name: value.to(self.device) for name, value in ema.items()}
        self._optimiser.load_state_dict(state["optimiser"])
        torch.set_rng_state(state["torch_rng"])
        if self.device.type == "cuda" and "cuda_rng" in state:
            torch.cuda.set_rng_state(state["cuda_rng"], self.device)

    def _to_device(self, x_BCHW: Any) -> Tensor:
        tensor = torch.from_numpy(x_BCHW).contiguous(memory_format=torch.channels_last)
        return tensor.to(self.device, non_blocking=True)

    @torch.no_grad()
    def _average(self, step: int) -> None:
        decay = min(self._config.ema_decay, (1 + step) / (10 + step))
        current = self.model.state_dict()
        torch._foreach_lerp_(list(self.ema.values()), [current[name] for name in self.ema], 1 - decay)


def choose_device(name: str) -> torch.device:
    """Turn `auto`, `cpu`, `cuda`, `cuda:1` or `mps` into a device that is there.

    Raises:
        ConfigError: no such device on this machine.
    """
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
        torch.empty(1, device=device)
    except (RuntimeError, AssertionError) as error:
        raise ConfigError(f"device {name!r} cannot be used on this machine: {str(error).splitlines()[0]}") from error
    return device
