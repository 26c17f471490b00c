"""NAFNet's channel weights through the seam of restoration/statistics.py."""

from __future__ import annotations

import torch

from restoration.models import make_model
from restoration.statistics import Place, looks_at_everything, measuring, replaying


@torch.inference_mode()
def test_tiles_take_what_was_measured_on_the_whole():
    torch.manual_seed(0)
    model = make_model("nafnet-tiny").eval()
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.1)
    x, other = torch.rand(2, 1, 3, 32, 32).unbind()
    whole = [Place(0, 0, 32, 32)]
    assert looks_at_everything(model)
    with measuring(model, whole, (32, 32)) as shared:
        measured = model(x)
    alone = model(x)
    torch.testing.assert_close(measured, alone)
    with replaying(model, shared, whole, (32, 32)):
        torch.testing.assert_close(model(x), alone)
    with replaying(model, shared, whole, (32, 32)):
        replayed = model(other)
    assert not torch.allclose(replayed, model(other))
