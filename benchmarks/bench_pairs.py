"""Does the calibrating field keep the relation of real pairs? |(y~ - x~) - (y - x)| on rain and haze, for gains |y~ x - x~ y|.

`python benchmarks/bench_pairs.py [--network FILE.npz]`; FILE is what bench_calibrate.py kept. Three networks with random
weights so large that the field reaches its bound, and one trained on the brightest half of the pairs themselves (whole
pictures, vit_s14, a few steps), are applied to every pair of bench/rain100h25 (eps 8/255) and bench/sots_indoor10
(eps 4/255), in both modes. Told in float and after the rounding to 16 bits: the first must be <= 1e-6.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import numpy as np
from common import DATA, write_result

from curate import load_encoder
from curate.core.images import read_picture
from curate.core.records import Image
from distill.calibration import FULL, CalibrationRequest
from distill.field import ADDITIVE, LOG_GAIN, FieldChange, build_network
from distill.fitconfig import FitConfig
from distill.fitting import fit_field
from distill.views import global_view
from distill.yardstick import YardstickConfig, build_yardstick

EPS_LEVELS = {"rain100h25": 8.0, "sots_indoor10": 4.0}  # spec/tripled.md section 4.4
BOUND = 1e-6
LOUD, SEEDS = 30.0, (0, 1, 2)  # deviation of the last layer's random weights
TRAIN_STEPS, TRAIN_LR = 6, 1e-2
Pairs = list[tuple[Image, Image]]


def read_pairs(name: str) -> Pairs:
    folder = DATA / "bench" / name
    return [
        (read_picture(folder / "target" / path.name), read_picture(path))
        for path in sorted((folder / "input").iterdir())
    ]


def loud(seed: int) -> Any:
    import torch

    network = build_network(np.random.default_rng(seed))
    with torch.no_grad():
        weight = network[-1].weight
        weight.copy_(torch.from_numpy(np.random.default_rng((seed, 1)).normal(0, LOUD, tuple(weight.shape))))
    return network.eval().requires_grad_(False)


def trained(pairs: Pairs, eps_levels: float) -> Any:
    """Fit a network to the brightest half, whatever the guard would say of so few."""
    brightest = np.argsort([pair[0].mean() for pair in pairs])[len(pairs) // 2 :]
    encoder = load_encoder("vit_s14")
    rows = [
        np.concatenate([
            encoder.encode(global_view(pair[member], encoder.input_px)[None]).tokens.mean(axis=1) for pair in pairs
        ])
        for member in (0, 1)
    ]  # fmt: skip
    request = CalibrationRequest(
        rows=rows[0], degraded_rows=rows[1], chosen=np.sort(brightest), read=pairs.__getitem__, encoder=encoder,
        workers=2,
    )  # fmt: skip
    measured = build_yardstick(request.members(), request.chosen, YardstickConfig(), 0)
    assert measured is not None
    config = FitConfig(eps_levels=eps_levels, steps_iter=TRAIN_STEPS, lr=TRAIN_LR, corpus_crops=4)
    return fit_field(request, measured, config)


def judge(pairs: Pairs, change: FieldChange) -> dict[str, float]:
    """Worst over all pairs and pixels; PSNR of clean pictures."""
    broken, broken_deep, largest, outside, psnr_db = 0.0, 0.0, 0.0, 0.0, []
    for clean, degraded in pairs:
        field, (new, new_degraded) = change.shift(clean, degraded)
        deep = change.apply(clean, degraded)
        x, y = (image.transpose(2, 0, 1) / 255 for image in (clean, degraded))  # float64
        floats = (new.astype(np.float64), new_degraded.astype(np.float64))
        rounded = tuple(image.transpose(2, 0, 1) / FULL for image in deep if image is not None)
        broken = max(broken, _broken(x, y, floats, change.kind))
        broken_deep = max(broken_deep, _broken(x, y, rounded, change.kind))
        outside = max(outside, *(float(max(-v.min(), v.max() - 1)) for v in floats))
        largest = max(largest, float(np.abs(field).max()) * 255)
        error = np.mean((rounded[0] - x) ** 2)
        psnr_db.append(10 * np.log10(1 / error) if error else np.inf)
    return {
        "broken in float": broken, "broken in 16 bits": broken_deep, "outside [0, 1]": outside,
        "largest field, levels": largest, "PSNR(x, x~) min, dB": float(min(psnr_db)),
        "PSNR(x, x~) median, dB": float(np.median(psnr_db)),
    }  # fmt: skip


def _broken(x: np.ndarray, y: np.ndarray, new: tuple[np.ndarray, ...], kind: str) -> float:
    difference = (new[1] - new[0]) - (y - x) if kind == ADDITIVE else new[1] * x - new[0] * y
    return float(np.abs(difference).max())


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--network", type=Path)
    asked = parser.parse_args()
    values: dict[str, Any] = {}
    for name, eps_levels in EPS_LEVELS.items():
        pairs = read_pairs(name)
        values[f"{name}: pairs"] = len(pairs)
        fitted = trained(pairs, eps_levels)
        assert fitted.kept_step, f"{name}: no step brought the bright half nearer"
        for kind in (ADDITIVE, LOG_GAIN):
            plain = {"kind": kind, "eps": eps_levels / 255}
            made = {f"random {seed}": FieldChange(network=loud(seed), **plain) for seed in SEEDS}
            made[f"trained, step {fitted.kept_step}"] = FieldChange(network=fitted.change.network, **plain)
            if asked.network:
                with np.load(asked.network) as stored:
                    made["of bench_calibrate"] = FieldChange.from_tensors(dict(stored), **plain)
            for label, change in made.items():
                found = judge(pairs, change)
                assert found["broken in float"] <= BOUND, f"{name}, {kind}, {label}: {found}"
                values |= {f"{name}, {kind}, {label}: {key}": float(f"{value:.4g}") for key, value in found.items()}
    write_result("pairs", f"every real pair through the calibrating field; in float at most {BOUND} is allowed", values)


if __name__ == "__main__":
    main()
