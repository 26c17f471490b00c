"""NAFNet's channel weights can be measured once over a picture and taken by its tiles."""

from __future__ import annotations

import torch
from torch import Tensor

from restoration.models import make_model


class Shared:
    """What restoration's tiling puts into `statistics`: values kept in the order of the calls."""

    def __init__(self) -> None:
        self.values: list[Tensor] = []
        self.replaying = False

    def mean(self, x_B: Tensor) -> Tensor:
        return x_B.mean(0, keepdim=True)

    def keep(self, value: Tensor) -> Tensor:
        self.values.append(value)
        return value

    def take(self) -> Tensor:
        return self.values.pop(0)


@torch.inference_mode()
def test_what_was_measured_is_taken_in_order():
    torch.manual_seed(0)
    model = make_model("nafnet-tiny").eval()
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.1)
    x, other = torch.rand(2, 1, 3, 32, 32).unbind()
    alone, shared = model(x), Shared()
    weights = [module for module in model.modules() if hasattr(module, "statistics")]
    for module in weights:
        module.statistics = shared
    assert torch.equal(model(x), alone) and len(shared.values) == len(weights) == 7
    shared.replaying = True
    kept = list(shared.values)
    assert torch.equal(model(x), alone) and shared.values == []
    shared.values = list(kept)
    replayed = model(other)
    for module in weights:
        module.statistics = None
    assert not torch.equal(replayed, model(other))
