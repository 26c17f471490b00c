from __future__ import annotations

import contextlib

import numpy as np
import pytest
import torch

from curate.core.errors import ConfigError
from restoration import evaluation, speed, trainer
from restoration.bound import bind
from restoration.data import Batch
from restoration.models import _kernels, _transformer, ipt, make_model
from restoration.models._precision import float32_exactly
from restoration.models._transformer import TransformerBlock
from restoration.speed import accelerate, uses_bf16
from restoration.trainer import OptimiserConfig, Trainer


def woken(name: str = "dynet-tiny") -> torch.nn.Module:
    model = make_model(name)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.05 * torch.randn(parameter.shape, generator=generator))
    return model


def picture(*shape: int) -> torch.Tensor:
    return torch.rand(*shape, generator=torch.Generator().manual_seed(1))


def test_precisions():
    cpu, cuda = torch.device("cpu"), torch.device("cuda")
    assert [uses_bf16(name, cpu) for name in ("auto", "float32", "bf16")] == [False, False, True]
    assert [uses_bf16(name, cuda) for name in ("auto", "float32", "bf16")] == [True, False, True]
    for refuse in (lambda: accelerate(make_model("tiny"), precision="fp16"), lambda: OptimiserConfig(precision="fp16")):
        with pytest.raises(ConfigError, match="precision must be one of auto, float32, bf16"):
            refuse()


def test_accelerated_network_is_the_network():
    model, x = woken(), picture(1, 3, 16, 24)
    fast = accelerate(model)
    assert (fast.tasks, fast.depths, fast.reuse, fast.config) == (model.tasks, model.depths, model.reuse, model.config)
    with torch.inference_mode():
        assert torch.equal(bind(fast, depth="l")(x), bind(model, depth="l")(x))
    with pytest.raises(AttributeError, match="no_such_thing"):
        _ = fast.no_such_thing


def test_bf16_is_near_and_returns_the_dtype_of_its_input():
    model, x = woken(), picture(2, 3, 32, 32)
    with torch.inference_mode():
        exact, rough = model(x), accelerate(model, precision="bf16")(x)
    assert rough.dtype == torch.float32
    error = (rough - exact).square().mean().sqrt() / (exact - x).square().mean().sqrt()
    assert 0 < error < 0.05


def test_bf16_gradients_point_the_same_way():
    model, x = woken(), picture(2, 3, 32, 32)

    def gradient(precision: str) -> torch.Tensor:
        model.zero_grad()
        accelerate(model, precision=precision)(x).square().mean().backward()
        assert all(p.grad is not None and p.grad.dtype == torch.float32 for p in model.parameters())
        return torch.cat([p.grad.flatten() for p in model.parameters()])

    assert torch.nn.functional.cosine_similarity(gradient("bf16"), gradient("float32"), dim=0) > 0.99


def test_same_values_with_and_without_gradients():
    block = TransformerBlock(16, 2, 2.66)  # 42 hidden channels, filled up to 48
    x = torch.randn(2, 16, 9, 11, generator=torch.Generator().manual_seed(3))
    with_history = block(x)
    with torch.inference_mode():
        torch.testing.assert_close(with_history.detach(), block(x), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("precision", ["float32", "bf16"])
def test_trainer_steps_repeat_exactly(precision):
    rng = np.random.default_rng(0)
    batch = Batch(0, (), *rng.random((2, 2, 3, 16, 16), np.float32))

    def losses() -> list[float]:
        trainer = Trainer("dynet-tiny", OptimiserConfig(precision=precision), device=torch.device("cpu"), seed=0)
        return [trainer.step(batch, lr=1e-3)[0].item() for _ in range(3)]

    first = losses()
    assert first == losses() and first[-1] < first[0]


def test_strips_equal_the_whole(monkeypatch):
    block = TransformerBlock(16, 2, 2.66).to(memory_format=torch.channels_last)
    x = torch.randn(2, 16, 61, 24, generator=torch.Generator().manual_seed(3))
    seen: list[int] = []
    forward = _kernels.gated_projection
    monkeypatch.setattr(
        _transformer, "gated_projection", lambda gate, *rest: seen.append(gate.shape[2]) or forward(gate, *rest)
    )
    with torch.inference_mode():
        whole = block(x)
        monkeypatch.setattr(_kernels, "STRIP_BYTES", 1)
        strips = block(x)
    assert seen == [61, 17, 18, 18, 14]  # 16 rows each and what they need of their neighbours
    torch.testing.assert_close(strips, whole, rtol=1e-6, atol=1e-6)
    assert block(x).requires_grad and seen[-1] == 61


@pytest.mark.slow
def test_one_graph_and_few_of_them():
    """No graph breaks, and pictures of many sizes end in a few graphs (a counting backend: nothing is compiled)."""
    graphs: list[int] = []

    def count(graph: torch.fx.GraphModule, inputs: list[torch.Tensor]):
        graphs.append(len(inputs))
        return graph.forward

    model = woken()
    torch._dynamo.reset()
    run = torch.compile(model.forward, backend=count, fullgraph=True)
    sizes = [(16, 16), (24, 32), (40, 24), (17, 19)]
    with torch.inference_mode():
        for size in sizes:
            x = picture(1, 3, *size)
            torch.testing.assert_close(run(x, None), model(x, None))
    torch._dynamo.reset()
    assert len(graphs) < len(sizes)


@pytest.mark.slow
def test_compiled_equals_eager():
    """Values and gradients, whole training pass, of a network small enough to compile in a test."""
    small = {"num_refinement": 0, "channels": [8, 8, 8, 8], "prompt_channels": [8, 8, 8], "prompt_side_px": [4, 4, 4]}
    torch.manual_seed(0)
    model = make_model("dynet-tiny", {**small, "num_heads": [1, 2, 2, 2], "reuse": [1, 1, 1, 1]})
    torch.nn.init.normal_(model.output.weight, std=0.1)
    x = picture(1, 3, 16, 16)

    def run(compiled: bool) -> tuple[torch.Tensor, torch.Tensor]:
        model.zero_grad()
        output = accelerate(model, precision="float32", compiled=compiled)(x)
        output.square().mean().backward()
        return output.detach(), torch.cat([p.grad.flatten() for p in model.parameters()])

    (output, gradient), (fast_output, fast_gradient) = run(False), run(True)
    tolerance = 1e-4
    assert (fast_output - output).norm() <= tolerance * output.norm()
    assert (fast_gradient - gradient).norm() <= tolerance * gradient.norm()


def test_export_holds_the_plain_formula():
    model, x = woken().eval(), picture(1, 3, 16, 24)
    with torch.no_grad():
        program = torch.export.export(model, (x,), strict=False)
        torch.testing.assert_close(program.module()(x), model(x), rtol=1e-4, atol=1e-5)
    called = {str(node.target) for node in program.graph.nodes if node.op == "call_function"}
    assert {"aten.conv2d.default", "aten.matmul.default", "aten.gelu.default"} <= called
    assert [name for name in called if "autograd" in name or "convolution_backward" in name] == []


def test_a_network_in_bfloat16_runs():
    model, x = woken(), picture(1, 3, 16, 24)
    with torch.inference_mode():
        exact, rough = model(x), model.to(torch.bfloat16)(x.bfloat16())
    assert rough.dtype == torch.bfloat16
    assert (rough.float() - exact).square().mean().sqrt() < 0.02 * exact.square().mean().sqrt()


@pytest.mark.parametrize("before", [True, False])
def test_exact_float32_is_without_tf32_on_cuda_alone(monkeypatch, before):
    """The switch, without a GPU: off inside, as it was afterwards (also after an error), and cuDNN itself stays on."""
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", before)
    enabled = torch.backends.cudnn.enabled
    with float32_exactly("cpu"):
        assert torch.backends.cudnn.allow_tf32 is before
    with pytest.raises(ZeroDivisionError), float32_exactly("cuda"):
        assert torch.backends.cudnn.allow_tf32 is False and torch.backends.cudnn.enabled is enabled
        _ = 1 / 0
    assert torch.backends.cudnn.allow_tf32 is before


def test_who_promises_float32_asks_for_it(monkeypatch):
    asked: list[str] = []

    @contextlib.contextmanager
    def spy(device_type: str):
        asked.append(device_type)
        yield

    for place in (speed, ipt, evaluation, trainer):
        monkeypatch.setattr(place, "float32_exactly", spy)
    x = picture(1, 3, 16, 16)
    accelerate(make_model("tiny"), precision="float32")(x)
    assert asked == ["cpu"]
    accelerate(make_model("tiny"), precision="bf16")(x)
    assert asked == ["cpu"]
    evaluation.run_whole(bind(make_model("tiny")), x[0].numpy(), torch.device("cpu"), "x")
    assert asked == ["cpu", "cpu"]
    learner = Trainer("tiny", OptimiserConfig(precision="float32"), device=torch.device("cpu"), seed=0)
    learner.step(Batch(0, ("x",), x.numpy(), x.numpy()), lr=1e-3)
    assert len(asked) == 4  # the step with its backward pass, and the forward pass within
    accelerate(make_model("ipt-tiny"), precision="bf16")(picture(1, 3, 48, 48), "sr2")
    assert len(asked) == 8  # the means and the first and last convolution of ipt


def test_a_wrong_depth_names_one_that_fits():
    model = make_model("dynet-tiny")
    model.depths = {"small": (1, 1, 1, 2), "large": (2, 2, 2, 3)}
    with pytest.raises(ConfigError, match="small, large or 4 counts from 1 to 64 such as 2,2,2,3, got 'l'"):
        bind(model, depth="l")
