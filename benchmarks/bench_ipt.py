"""How fast IPT is against nn.MultiheadAttention's parts: a training step of 2 pictures of 48x48, and a batch of 8 restored.

The yardstick is the literal arrangement that the tests use as oracle (tests/oracle/test_restoration_ipt_literal.py), over the
same weights: in float32 as written, without the attention maps that it computes and nobody reads (`need_weights=False`), and
in bf16. All ways run in turn in one process; each ratio is the median of the rounds' ratios. Published size, task x2.
"""

import argparse
import copy
import importlib.util
import os
import statistics
from pathlib import Path

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

import torch
from common import time_in_turn, write_result

from restoration.models import channels_last, make_model

ORACLE = Path(__file__).parents[1] / "tests" / "oracle" / "test_restoration_ipt_literal.py"
TASK = "sr2"


def oracle():
    """Import the literal arrangement."""
    spec = importlib.util.spec_from_file_location("ipt_literal", ORACLE)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.LiteralIPT


def with_maps(model: torch.nn.Module, wanted: bool):
    """Return a function that calls the literal network, computing attention maps or not."""

    def run(x: torch.Tensor, task: str) -> torch.Tensor:
        for module in model.modules():
            if hasattr(module, "need_weights"):
                module.need_weights = wanted
        return model(x, task)

    return run


def adamw(model: torch.nn.Module) -> torch.optim.Optimizer:
    return torch.optim.AdamW((p for p in model.parameters() if p.requires_grad), lr=1e-6, fused=True)


def stepper(run, optimiser: torch.optim.Optimizer, batch: int, *, bf16: bool):
    """Return a function that does one L1 + AdamW step on a fixed batch."""
    torch.manual_seed(0)
    damaged, target = torch.rand(batch, 3, 48, 48), torch.rand(batch, 3, 96, 96)

    def step() -> None:
        optimiser.zero_grad(set_to_none=True)
        with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
            output = run(damaged, TASK)
        (output.float() - target).abs().mean().backward()
        optimiser.step()

    return step


def restorer(run, batch: int, dtype: torch.dtype):
    """Return a function that restores a fixed batch with weights of that type."""
    torch.manual_seed(0)
    x = torch.rand(batch, 3, 48, 48).to(dtype)

    @torch.inference_mode()
    def restore() -> None:
        run(x, TASK)

    return restore


def ratios(seconds: dict[str, list[float]], ours: str, theirs: str) -> float:
    return statistics.median(t / o for t, o in zip(seconds[theirs], seconds[ours], strict=True))


def training(literal, rounds: int, batch: int) -> dict[str, float]:
    ours = channels_last(make_model("ipt")).train()
    theirs = literal(ours.config).train()
    theirs.load_state_dict(ours.state_dict())
    follow_ours, follow_theirs = adamw(ours), adamw(theirs)
    ways = {
        "literal fp32": stepper(with_maps(theirs, True), follow_theirs, batch, bf16=False),
        "literal fp32 without maps": stepper(with_maps(theirs, False), follow_theirs, batch, bf16=False),
        "literal bf16": stepper(with_maps(theirs, True), follow_theirs, batch, bf16=True),
        "ours fp32": stepper(ours, follow_ours, batch, bf16=False),
        "ours bf16": stepper(ours, follow_ours, batch, bf16=True),
        "ours bf16 compiled": stepper(torch.compile(ours), follow_ours, batch, bf16=True),
    }
    return reported(time_in_turn(ways, rounds=rounds, warmup=1), f"training step, {batch} pictures of 48x48")


def inference(literal, rounds: int, batch: int) -> dict[str, float]:
    ours = channels_last(make_model("ipt")).eval()
    theirs = literal(ours.config).eval()
    theirs.load_state_dict(ours.state_dict())
    rough, theirs_rough = copy.deepcopy(ours).bfloat16(), copy.deepcopy(theirs).bfloat16()
    ways = {
        "literal fp32": restorer(with_maps(theirs, True), batch, torch.float32),
        "literal fp32 without maps": restorer(with_maps(theirs, False), batch, torch.float32),
        "literal bf16": restorer(theirs_rough, batch, torch.bfloat16),
        "ours fp32": restorer(ours, batch, torch.float32),
        "ours bf16": restorer(rough, batch, torch.bfloat16),
        "ours bf16 compiled": restorer(torch.compile(rough), batch, torch.bfloat16),
    }
    return reported(time_in_turn(ways, rounds=rounds, warmup=1), f"{batch} pictures of 48x48 restored")


def reported(seconds: dict[str, list[float]], what: str) -> dict[str, float]:
    medians = {f"{what}, {name}, s": round(statistics.median(times), 3) for name, times in seconds.items()}
    wins = {
        f"{what}, {theirs} / {ours}": round(ratios(seconds, ours, theirs), 2)
        for theirs in seconds if theirs.startswith("literal")
        for ours in seconds if ours.startswith("ours") and ("bf16" in ours) >= ("bf16" in theirs)
    }  # fmt: skip
    return medians | wins


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    rounds = parser.parse_args().rounds
    torch.set_num_threads(2)
    literal = oracle()
    values = training(literal, rounds, batch=2) | inference(literal, rounds, batch=8)
    write_result("ipt", f"IPT of 118.9 M parameters on the CPU, two threads, in turn, medians (n = {rounds})", values)


if __name__ == "__main__":
    main()
