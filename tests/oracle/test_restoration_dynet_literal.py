"""DyNet against a literal plain-PyTorch transcription of spec/dynet.md section 1, written without any of our tricks."""

from __future__ import annotations

from collections.abc import Mapping

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from restoration.models import channels_last
from restoration.models._transformer import TransformerBlock
from restoration.models.dynet import Config, DyNet

SMALL = Config(
    channels=(8, 16, 24, 32),
    num_heads=(1, 2, 2, 4),
    prompt_channels=(8, 12, 16),
    prompt_side_px=(16, 8, 4),
    num_refinement=2,
)
Parameters = Mapping[str, Tensor]


def literal_norm(p: Parameters, name: str, x: Tensor) -> Tensor:
    mean = x.mean(1, keepdim=True)
    var = x.var(1, keepdim=True, unbiased=False)
    weight, bias = p[f"{name}.body.weight"], p[f"{name}.body.bias"]
    return (x - mean) / torch.sqrt(var + 1e-5) * weight[:, None, None] + bias[:, None, None]


def literal_attention(p: Parameters, name: str, x: Tensor) -> Tensor:
    b, c, h, w = x.shape
    temperature = p[f"{name}.temperature"]
    heads = temperature.shape[0]
    qkv = F.conv2d(F.conv2d(x, p[f"{name}.qkv.weight"]), p[f"{name}.qkv_dwconv.weight"], padding=1, groups=3 * c)
    q, k, v = (part.reshape(b, heads, c // heads, h * w) for part in qkv.chunk(3, dim=1))
    q, k = F.normalize(q, dim=-1), F.normalize(k, dim=-1)
    attention = torch.softmax(q @ k.transpose(-2, -1) * temperature, dim=-1)
    return F.conv2d((attention @ v).reshape(b, c, h, w), p[f"{name}.project_out.weight"])


def literal_feed_forward(p: Parameters, name: str, x: Tensor) -> Tensor:
    hidden = F.conv2d(x, p[f"{name}.project_in.weight"])
    hidden = F.conv2d(hidden, p[f"{name}.dwconv.weight"], padding=1, groups=hidden.shape[1])
    gate, value = hidden.chunk(2, dim=1)
    return F.conv2d(F.gelu(gate) * value, p[f"{name}.project_out.weight"])


def literal_block(p: Parameters, name: str, x: Tensor) -> Tensor:
    x = x + literal_attention(p, f"{name}.attn", literal_norm(p, f"{name}.norm1", x))
    return x + literal_feed_forward(p, f"{name}.ffn", literal_norm(p, f"{name}.norm2", x))


def literal_prompt(p: Parameters, name: str, x: Tensor) -> Tensor:
    b, _, h, w = x.shape
    weights = F.softmax(
        F.linear(x.mean(dim=(-2, -1)), p[f"{name}.linear_layer.weight"], p[f"{name}.linear_layer.bias"]), dim=1
    )
    components = p[f"{name}.prompt_param"].expand(b, -1, -1, -1, -1)
    prompt = (weights[:, :, None, None, None] * components).sum(1)
    return F.conv2d(F.interpolate(prompt, (h, w), mode="bilinear"), p[f"{name}.conv3x3.weight"], padding=1)


def literal_dynet(p: Parameters, x: Tensor, reuse: tuple[int, ...]) -> Tensor:
    """The whole network, H and W multiples of 8; `p` under the published names."""

    def repeat(name: str, value: Tensor, count: int) -> Tensor:
        for _ in range(count):
            value = literal_block(p, name, value)
        return value

    def prompted(value: Tensor, level: int) -> Tensor:
        value = torch.cat([value, literal_prompt(p, f"prompt{level}", value)], 1)
        return F.conv2d(literal_block(p, f"noise_level{level}", value), p[f"reduce_noise_level{level}.weight"])

    def down(name: str, value: Tensor) -> Tensor:
        return F.pixel_unshuffle(F.conv2d(value, p[f"{name}.body.0.weight"], padding=1), 2)

    def up(name: str, value: Tensor) -> Tensor:
        return F.pixel_shuffle(F.conv2d(value, p[f"{name}.body.0.weight"], padding=1), 2)

    enc1 = repeat("encoder_level1", F.conv2d(x, p["patch_embed.proj.weight"], padding=1), reuse[0])
    enc2 = repeat("encoder_level2", down("down1_2", enc1), reuse[1])
    enc3 = repeat("encoder_level3", down("down2_3", enc2), reuse[2])
    latent = repeat("latent", down("down3_4", enc3), reuse[3])
    joined = torch.cat([up("up4_3", prompted(latent, 3)), prompted(enc3, 2)], 1)
    dec3 = repeat("decoder_level3", F.conv2d(joined, p["reduce_chan_level3.weight"]), reuse[2])
    joined = torch.cat([up("up3_2", dec3), prompted(enc2, 1)], 1)
    dec2 = repeat("decoder_level2", F.conv2d(joined, p["reduce_chan_level2.weight"]), reuse[1])
    value = repeat("decoder_level1", torch.cat([up("up2_1", dec2), enc1], 1), reuse[0])
    for number in range(sum(name.startswith("refinement.") and name.endswith("temperature") for name in p)):
        value = literal_block(p, f"refinement.{number}", value)
    return F.conv2d(value, p["output.weight"], padding=1) + x


def randomised(model: torch.nn.Module) -> torch.nn.Module:
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn(parameter.shape, generator=generator))
    return model


def gradients(model: torch.nn.Module) -> dict[str, Tensor]:
    return {name: parameter.grad.clone() for name, parameter in model.named_parameters() if parameter.grad is not None}


@pytest.mark.parametrize("reuse", [(1, 1, 1, 2), (2, 2, 2, 3)])
def test_outputs_and_gradients_equal_the_literal_formula(reuse):
    model = randomised(DyNet(SMALL)).double()
    x = torch.rand(2, 3, 24, 32, dtype=torch.float64, generator=torch.Generator().manual_seed(2))
    fast = channels_last(model)(x, reuse)
    fast.square().mean().backward()
    fast_gradients = gradients(model)
    model.zero_grad()
    literal = literal_dynet(dict(model.named_parameters()), x, reuse)
    literal.square().mean().backward()
    torch.testing.assert_close(fast, literal, rtol=1e-9, atol=1e-10)
    literal_gradients = gradients(model)
    assert fast_gradients.keys() == literal_gradients.keys() == dict(model.named_parameters()).keys()
    for name, value in literal_gradients.items():
        assert (fast_gradients[name] - value).norm() <= 1e-8 * value.norm() + 1e-12, name


@pytest.mark.parametrize(("channels", "heads"), [(48, 1), (48, 4)])
def test_block_of_the_published_width(channels, heads):
    block = randomised(TransformerBlock(channels, heads, 2.66))
    x = torch.randn(1, channels, 16, 24, generator=torch.Generator().manual_seed(3))
    wrapped = {f"b.{name}": parameter for name, parameter in block.named_parameters()}
    torch.testing.assert_close(block(x), literal_block(wrapped, "b", x), rtol=1e-4, atol=1e-5)


def test_constant_zero_channel_gives_finite_gradients():
    block = TransformerBlock(8, 2, 2.0)
    torch.nn.init.zeros_(block.attn.qkv.weight)
    x = torch.rand(1, 8, 8, 8, requires_grad=True)
    block(x).sum().backward()
    assert x.grad is not None and torch.isfinite(x.grad).all()
    assert all(torch.isfinite(value).all() for value in gradients(block).values())
