"""A fit that was killed goes on where it was, ends with the same bytes, and trusts no state but its own."""

import dataclasses
import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from distill import fitstate, fitting
from distill.calibration import CalibrationRequest
from distill.fitconfig import FitConfig
from distill.yardstick import YardstickConfig, build_yardstick

NUM, SIDE_PX = 60, 32
SHORT = FitConfig(steps_iter=9, side_px=16, lr=1e-2, corpus_batch=16, corpus_crops=3)
IN_PARTS = dataclasses.replace(SHORT, subset_batch=4, check_every_iter=2)


class SmallEncoder:
    """Mean of 4 x 4 pixel patches through a fixed random layer; a stand-in, trained on nothing."""

    name, input_px = "small", 16

    def __init__(self) -> None:
        self.weight = torch.from_numpy(np.random.default_rng(5).normal(0, 0.3, (12, 3, 4, 4)).astype(np.float32))

    def mean_token(self, x_BCHW: torch.Tensor) -> torch.Tensor:
        return torch.tanh(torch.nn.functional.conv2d(x_BCHW - 0.5, self.weight, stride=4)).mean(dim=(2, 3))


def made_request(state: Path | None, **more: object) -> CalibrationRequest:
    """Grey textures under coloured lights; the reddest are the subset."""
    rng = np.random.default_rng(1)
    lights = rng.normal(0, 20, (NUM, 1, 1, 3))
    pictures = np.clip(rng.normal(128, 12, (NUM, SIDE_PX, SIDE_PX, 1)) + lights, 0, 255).astype(np.uint8)
    encoder = SmallEncoder()
    small = torch.from_numpy(pictures.transpose(0, 3, 1, 2).astype(np.float32) / 255)
    shrunk = torch.nn.functional.interpolate(small, size=(16, 16), mode="bicubic", antialias=True).clamp(0, 1)
    return CalibrationRequest(
        rows=encoder.mean_token(shrunk).numpy(), chosen=np.sort(np.argsort(lights[:, 0, 0, 0])[-8:]), encoder=encoder,
        read=lambda row: (pictures[row], None), state=state, **more,
    )  # fmt: skip


def fitted(request: CalibrationRequest, config: FitConfig) -> fitting.Fitted:
    measured = build_yardstick(request.members(), request.chosen, YardstickConfig(), 0)
    assert measured is not None
    return fitting.fit_field(request, measured, config)


def told(got: fitting.Fitted) -> tuple:
    weights = np.concatenate([values.ravel() for values in got.change.tensors().values()])
    return weights.tobytes(), got.before, got.after, got.kept_step, got.history, got.losses, got.row_error_frac


class Killed(BaseException):
    pass


class DiesAt:
    def __init__(self, step: int) -> None:
        self.left, self.begun = step, (0, 0)

    def begin(self, total: int, done: int, *, label: str = "", unit: str = "") -> None:
        self.begun = (total, done)

    def step(self, num: int) -> None:
        self.left -= num
        if not self.left:
            raise Killed


@pytest.mark.parametrize("config", [SHORT, IN_PARTS])
def test_a_killed_fit_goes_on_and_ends_with_the_same_bytes(
    config: FitConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = fitted(made_request(None), config)
    monkeypatch.setattr("distill.fitting.SAVE_EVERY_STEPS", 3)
    state = tmp_path / "ledger" / "fit.pt"
    with pytest.raises(Killed):
        fitted(made_request(state, watch=DiesAt(5)), config)
    assert state.is_file()
    watch = DiesAt(100)
    again = fitted(made_request(state, watch=watch), config)
    assert watch.begun == (9, 3)
    assert (whole.steps_taken, again.steps_taken) == (9, 6)
    assert told(again) == told(whole)
    done = fitted(made_request(state), config)
    assert done.steps_taken == 0, "killed after the last step, nothing is fitted again"
    assert told(done) == told(whole)


def test_the_state_of_another_fit_or_a_damaged_one_is_not_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("distill.fitting.SAVE_EVERY_STEPS", 1)
    state, few = tmp_path / "fit.pt", dataclasses.replace(SHORT, steps_iter=2)
    fitted(made_request(state), few)
    assert fitted(made_request(state), few).steps_taken == 0
    assert fitted(made_request(state), dataclasses.replace(few, l_id=0.06)).steps_taken == 2
    assert fitted(made_request(state, seed=3), few).steps_taken == 2
    other = made_request(state, seed=3)
    assert fitted(dataclasses.replace(other, chosen=other.chosen[1:]), few).steps_taken == 2
    for damage in (b"", b"no zip", state.read_bytes()[:300]):
        state.write_bytes(damage)
        assert fitted(made_request(state), few).steps_taken == 2
    assert not [path for path in tmp_path.iterdir() if path != state]


def test_a_process_killed_by_the_system_leaves_a_state_that_serves(tmp_path: Path) -> None:
    state = tmp_path / "fit.pt"
    code = (
        "import os, signal, sys\n"
        f"sys.path.insert(0, {str(Path(__file__).parent)!r})\n"
        "from pathlib import Path\n"
        "import test_distill_fit_resume as here\n"
        "here.fitting.SAVE_EVERY_STEPS = 2\n"
        "class Dies(here.DiesAt):\n"
        "    def step(self, num):\n"
        "        self.left -= num\n"
        "        if not self.left: os.kill(os.getpid(), signal.SIGKILL)\n"
        f"here.fitted(here.made_request(Path({str(state)!r}), watch=Dies(5)), here.SHORT)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], env=os.environ, capture_output=True, timeout=100, check=False)
    assert done.returncode == -signal.SIGKILL, done.stderr
    again = fitted(made_request(state), SHORT)
    assert again.steps_taken == 5
    assert told(again) == told(fitted(made_request(None), SHORT))


def test_the_key_knows_everything_that_changes_the_fit() -> None:
    request = made_request(None)
    measured = build_yardstick(request.members(), request.chosen, YardstickConfig(), 0)
    assert measured is not None
    task_of = np.arange(NUM) % 2
    by_task = build_yardstick(request.members(), request.chosen, YardstickConfig(), 0, task_of)
    assert by_task is not None
    keys = {
        fitstate.fit_key(request, measured, SHORT, "cpu"), fitstate.fit_key(request, measured, SHORT, "cuda"),
        fitstate.fit_key(request, measured, IN_PARTS, "cpu"), fitstate.fit_key(request, by_task, SHORT, "cpu"),
        fitstate.fit_key(dataclasses.replace(request, seed=1), measured, SHORT, "cpu"),
    }  # fmt: skip
    assert len(keys) == 5
