"""A training step of dynet-tiny (8 crops of 64 px: promise <= 0.25 s on two cores) and how fast DyNet's block is.

The yardstick of the published size is the literal transcription that the tests use as oracle, fp32 eager, same step.
"""

import importlib.util
import os
import statistics
from pathlib import Path

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

import torch
from common import time_in_turn, write_result

from restoration import make_model
from restoration.models import channels_last

ORACLE = Path(__file__).parents[1] / "tests" / "oracle" / "test_restoration_dynet_literal.py"


def stepper(model: torch.nn.Module, batch: int, side_px: int, *, bf16: bool = False, last: bool = True):
    """Return a function that does one L1 + AdamW step on a fixed batch."""
    torch.manual_seed(0)
    target = torch.rand(batch, 3, side_px, side_px)
    damaged = (target + 0.1 * torch.randn_like(target)).clamp(0, 1)
    if last:
        damaged = damaged.contiguous(memory_format=torch.channels_last)
    optimiser = torch.optim.AdamW(model.parameters(), lr=1e-4, fused=True)

    def step() -> None:
        optimiser.zero_grad(set_to_none=True)
        with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
            output = model(damaged)
        (output.float() - target).abs().mean().backward()
        optimiser.step()

    return step


class Literal(torch.nn.Module):
    """The tests' oracle over the parameters of a fresh dynet-s."""

    def __init__(self) -> None:
        super().__init__()
        spec = importlib.util.spec_from_file_location("literal", ORACLE)
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        self.held, self.formula = make_model("dynet-s"), module.literal_dynet

    def forward(self, x_BCHW: torch.Tensor) -> torch.Tensor:
        """Apply the literal formula."""
        return self.formula(dict(self.held.named_parameters()), x_BCHW, self.held.reuse)


def main() -> None:
    torch.set_num_threads(2)
    tiny = channels_last(make_model("dynet-tiny"))
    seconds = time_in_turn({"tiny": stepper(tiny, 8, 64)}, rounds=9, warmup=2)
    values = {"dynet-tiny, 8 crops of 64 px, s a step": statistics.median(seconds["tiny"])}
    ways = {
        "literal": stepper(Literal(), 1, 64, last=False),
        "fp32": stepper(channels_last(make_model("dynet-s")), 1, 64),
        "bf16": stepper(channels_last(make_model("dynet-s")), 1, 64, bf16=True),
    }
    seconds = time_in_turn(ways, rounds=7, warmup=1)
    for name in ("fp32", "bf16"):
        ratios = [a / b for a, b in zip(seconds["literal"], seconds[name], strict=True)]
        values[f"dynet-s, 1 crop of 64 px, literal fp32 / ours {name}"] = statistics.median(ratios)
    write_result("dynet-step", "training steps on the CPU, two threads, in turn, medians (n = 9 and 7)", values)


if __name__ == "__main__":
    main()
