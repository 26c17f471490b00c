"""How fast DyNet-S is, against a literal plain-PyTorch transcription of spec/dynet.md (the tests' oracle, fp32, eager, NCHW).

In turn, same process, same weights, medians, for a training step (forward, loss, backward) and for inference. Both sides run
with the allocator that `restoration train` sets (curate/core/heap.py), which helps the transcription more. Peak memory is
VmHWM of a fresh process for each way: three repetitions, the transcription with glibc's own settings, ours with ours.
Compiling takes most of the time: `--compiled none` leaves it out, `--compiled all` adds bfloat16.
"""

import argparse
import importlib.util
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

import torch
from common import summarise, time_in_turn, write_result
from torch import Tensor

from curate.core.heap import keep_freed_memory
from restoration import make_model
from restoration.speed import accelerate

ORACLE = Path(__file__).parents[1] / "tests" / "oracle" / "test_restoration_dynet_literal.py"
TRAIN_SHAPE, USE_SHAPE = (2, 3, 128, 128), (1, 3, 256, 256)
WAYS = {  # name -> precision, compiled
    "float32": ("float32", False),
    "bf16": ("bf16", False),
    "float32 compiled": ("float32", True),
    "bf16 compiled": ("bf16", True),
}
PROMISES = {  # work, way -> ratio; "best" is the fastest way
    ("train", "float32"): 1.3,
    ("train", "best"): 2.0,
    ("use", "float32"): 1.3,
    ("use", "float32 compiled"): 1.5,
    ("use", "best"): 2.5,
}
Network = Callable[[Tensor], Tensor]


class Literal(torch.nn.Module):
    """The tests' oracle over the parameters of a network of ours."""

    def __init__(self, held: torch.nn.Module) -> None:
        super().__init__()
        spec = importlib.util.spec_from_file_location("literal", ORACLE)
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        self.held, self.formula = held, module.literal_dynet

    def forward(self, x_BCHW: Tensor) -> Tensor:
        """Apply the literal formula."""
        return self.formula(dict(self.held.named_parameters()), x_BCHW, self.held.reuse)


def fresh() -> torch.nn.Module:
    """Return dynet-s with weights that change the picture."""
    torch.manual_seed(0)
    model = make_model("dynet-s")
    torch.nn.init.normal_(model.output.weight, std=0.03)
    return model


def network(way: str) -> tuple[Network, torch.nn.Module]:
    """Return what is called, and the module that holds its parameters."""
    model = fresh()
    if way == "literal":
        return Literal(model), model
    precision, compiled = WAYS[way]
    return accelerate(model, precision=precision, compiled=compiled), model


def picture(shape: tuple[int, ...]) -> Tensor:
    return torch.rand(shape, generator=torch.Generator().manual_seed(1))


def work_of(work: str, way: str) -> tuple[Callable[[], Tensor], torch.nn.Module]:
    """Return one training step or one inference as a function that gives the output."""
    run, model = network(way)
    x = picture(TRAIN_SHAPE if work == "train" else USE_SHAPE)

    def step() -> Tensor:
        model.zero_grad(set_to_none=True)
        output = run(x)
        (output - 0.5).abs().mean().backward()
        return output.detach()

    @torch.inference_mode()
    def use() -> Tensor:
        return run(x)

    return (step if work == "train" else use), model


def gradient_error(model: torch.nn.Module, exact: torch.nn.Module) -> float:
    """Return the largest distance of a parameter's gradient, relative to its length."""
    pairs = zip(model.parameters(), exact.parameters(), strict=True)
    return max(float((a.grad - b.grad).norm() / b.grad.norm()) for a, b in pairs)


def compare(work: str, ways: list[str], rounds: int) -> dict[str, float | str]:
    """Time all ways of one kind of work in turn."""
    shape = TRAIN_SHAPE if work == "train" else USE_SHAPE
    made = {way: work_of(work, way) for way in ["literal", *ways]}
    values: dict[str, float | str] = {}
    exact, base = made["literal"][0](), picture(shape)
    for way in ways:
        start = time.perf_counter()
        output = made[way][0]()
        if way.endswith("compiled"):
            values[f"{work}, {way}: s to compile"] = time.perf_counter() - start
        error = (output - exact).abs().max() / exact.abs().max()
        rms = (output - exact).square().mean().sqrt() / (exact - base).square().mean().sqrt()
        values[f"{work}, {way}: max error / max output"] = float(error)
        values[f"{work}, {way}: RMS error / RMS correction"] = float(rms)
        if work == "train":
            values[f"{work}, {way}: largest gradient error"] = gradient_error(made[way][1], made["literal"][1])
    seconds = time_in_turn({way: run for way, (run, _) in made.items()}, rounds=rounds, warmup=1)
    values[f"{work}, literal: s"] = statistics.median(seconds["literal"])
    medians = {}
    for way in ways:
        ratio = summarise([a / b for a, b in zip(seconds["literal"], seconds[way], strict=True)])
        medians[way] = ratio["median"]
        values[f"{work}, {way}: s"] = statistics.median(seconds[way])
        values[f"{work}, {way}: times as fast"] = ratio["median"]
        values[f"{work}, {way}: quartiles of the ratio, n = {ratio['n']}"] = f"{ratio['p25']:.2f} to {ratio['p75']:.2f}"
    best = max(medians, key=medians.__getitem__)
    values[f"{work}, best way"] = best
    values[f"{work}, best: times as fast"] = medians[best]
    return values


def peak(work: str, way: str) -> None:
    """Do it three times in this process and print its peak in MB."""
    if way != "literal":
        keep_freed_memory()
    run, _ = work_of(work, way)
    for _ in range(3):
        run()
    [line] = [line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM")]
    print(int(line.split()[1]) / 1024)


def peak_in_fresh_process(work: str, way: str) -> float:
    command = [sys.executable, __file__, "--peak", work, way]
    return float(subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines()[-1])


def tiny_step(rounds: int) -> float:
    """Return the median seconds of a training step of dynet-tiny with 8 crops of 64 px (promise: 0.25 s on two cores)."""
    model, target = make_model("dynet-tiny"), picture((8, 3, 64, 64))
    run = accelerate(model)
    optimiser = torch.optim.AdamW(model.parameters(), lr=1e-4, fused=True)

    def step() -> None:
        optimiser.zero_grad(set_to_none=True)
        (run(0.9 * target) - target).abs().mean().backward()
        optimiser.step()

    return statistics.median(time_in_turn({"tiny": step}, rounds=rounds, warmup=2)["tiny"])


def show(values: dict[str, float | str]) -> None:
    """Print the promises beside what was measured."""
    for (work, way), promised in PROMISES.items():
        got = values.get(f"{work}, {way}: times as fast")
        if got is not None:
            print(
                f"{work:5} {way:16} {got:5.2f} times as fast, promised {promised} {'ok' if got >= promised else 'MISSED'}"
            )
    for work in ("train", "use"):
        for way in WAYS:
            ours, theirs = values.get(f"{work}, {way}: peak MB"), values[f"{work}, literal: peak MB"]
            if ours is not None:
                print(
                    f"{work:5} {way:16} peak {ours:5.0f} MB, literal {theirs:5.0f} {'ok' if ours <= theirs else 'MISSED'}"
                )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--peak", nargs=2, metavar=("WORK", "WAY"))
    parser.add_argument("--compiled", choices=("none", "promised", "all"), default="promised")
    parser.add_argument("--rounds", type=int, default=7)
    arguments = parser.parse_args()
    torch.set_num_threads(2)
    if arguments.peak:
        peak(*arguments.peak)
        return
    keep_freed_memory()
    eager = ["float32", "bf16"]
    ways = {"train": list(eager), "use": list(eager)}
    if arguments.compiled != "none":
        ways["use"].append("float32 compiled")
    if arguments.compiled == "all":
        ways = {work: [*names, "bf16 compiled"] for work, names in ways.items()}
    values: dict[str, float | str] = {"dynet-tiny, 8 crops of 64 px, s a step": tiny_step(arguments.rounds)}
    for work, names in ways.items():
        values |= compare(work, names, arguments.rounds)
        for way in ["literal", *(name for name in names if not name.endswith("compiled"))]:
            values[f"{work}, {way}: peak MB"] = peak_in_fresh_process(work, way)
    claim = (
        "dynet-s, training step at 128x128, batch 2, and inference at 256x256, against a literal transcription in fp32"
    )
    write_result("models", f"{claim}, two threads, in turn, medians (n = {arguments.rounds})", values)
    show(values)


if __name__ == "__main__":
    main()
