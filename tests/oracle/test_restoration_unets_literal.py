"""PromptIR, Restormer and NAFNet against literal transcriptions in plain functions, values and gradients."""

from __future__ import annotations

import importlib.util
from collections.abc import Mapping
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from restoration.models import channels_last, nafnet, promptir, restormer

spec = importlib.util.spec_from_file_location(
    "dynet_literal", Path(__file__).with_name("test_restoration_dynet_literal.py")
)
assert spec is not None and spec.loader is not None
dynet_literal = importlib.util.module_from_spec(spec)
spec.loader.exec_module(dynet_literal)

Parameters = Mapping[str, Tensor]
WIDTHS = {"channels": (8, 16, 24, 32), "num_heads": (1, 2, 2, 4), "num_blocks": (1, 2, 1, 2), "num_refinement": 2}
PROMPTS = {"prompt_channels": (8, 12, 16), "prompt_side_px": (16, 8, 4)}


def literal_norm(p: Parameters, name: str, x: Tensor) -> Tensor:
    if f"{name}.body.bias" in p:
        return dynet_literal.literal_norm(p, name, x)
    return x / torch.sqrt(x.var(1, keepdim=True, unbiased=False) + 1e-5) * p[f"{name}.body.weight"][:, None, None]


def literal_block(p: Parameters, name: str, x: Tensor) -> Tensor:
    x = x + dynet_literal.literal_attention(p, f"{name}.attn", literal_norm(p, f"{name}.norm1", x))
    return x + dynet_literal.literal_feed_forward(p, f"{name}.ffn", literal_norm(p, f"{name}.norm2", x))


def literal_blocks(p: Parameters, name: str, x: Tensor) -> Tensor:
    for number in range(sum(key.startswith(f"{name}.") and key.endswith("temperature") for key in p)):
        x = literal_block(p, f"{name}.{number}", x)
    return x


def literal_prompted(p: Parameters, level: int, x: Tensor) -> Tensor:
    x = torch.cat([x, dynet_literal.literal_prompt(p, f"prompt{level}", x)], 1)
    return F.conv2d(literal_block(p, f"noise_level{level}", x), p[f"reduce_noise_level{level}.weight"])


def down(p: Parameters, name: str, x: Tensor) -> Tensor:
    return F.pixel_unshuffle(F.conv2d(x, p[f"{name}.body.0.weight"], padding=1), 2)


def up(p: Parameters, name: str, x: Tensor) -> Tensor:
    return F.pixel_shuffle(F.conv2d(x, p[f"{name}.body.0.weight"], padding=1), 2)


def literal_unet(p: Parameters, x: Tensor, *, prompts: bool) -> Tensor:
    """Restormer, or with prompts PromptIR; H and W multiples of 8."""

    def asked(level: int, value: Tensor) -> Tensor:
        return literal_prompted(p, level, value) if prompts else value

    enc1 = literal_blocks(p, "encoder_level1", F.conv2d(x, p["patch_embed.proj.weight"], padding=1))
    enc2 = literal_blocks(p, "encoder_level2", down(p, "down1_2", enc1))
    enc3 = literal_blocks(p, "encoder_level3", down(p, "down2_3", enc2))
    latent = literal_blocks(p, "latent", down(p, "down3_4", enc3))
    joined = torch.cat([up(p, "up4_3", asked(3, latent)), enc3], 1)
    dec3 = literal_blocks(p, "decoder_level3", F.conv2d(joined, p["reduce_chan_level3.weight"]))
    joined = torch.cat([up(p, "up3_2", asked(2, dec3)), enc2], 1)
    dec2 = literal_blocks(p, "decoder_level2", F.conv2d(joined, p["reduce_chan_level2.weight"]))
    dec1 = literal_blocks(p, "decoder_level1", torch.cat([up(p, "up2_1", asked(1, dec2)), enc1], 1))
    return F.conv2d(literal_blocks(p, "refinement", dec1), p["output.weight"], padding=1) + x


def literal_promptir(p: Parameters, x: Tensor) -> Tensor:
    return literal_unet(p, x, prompts=True)


def literal_restormer(p: Parameters, x: Tensor) -> Tensor:
    return literal_unet(p, x, prompts=False)


def literal_nafnet(p: Parameters, x: Tensor) -> Tensor:
    def conv(name: str, value: Tensor, **options: int) -> Tensor:
        return F.conv2d(value, p[f"{name}.weight"], p.get(f"{name}.bias"), **options)

    def norm(name: str, value: Tensor) -> Tensor:
        centred = value - value.mean(1, keepdim=True)
        scaled = centred / torch.sqrt(centred.square().mean(1, keepdim=True) + 1e-6)
        return scaled * p[f"{name}.weight"][:, None, None] + p[f"{name}.bias"][:, None, None]

    def gate(value: Tensor) -> Tensor:
        half = value.shape[1] // 2
        return value[:, :half] * value[:, half:]

    def block(name: str, value: Tensor) -> Tensor:
        wide = conv(f"{name}.conv1", norm(f"{name}.norm1", value))
        gated = gate(conv(f"{name}.conv2", wide, padding=1, groups=wide.shape[1]))
        gated = gated * conv(f"{name}.sca.1", F.adaptive_avg_pool2d(gated, 1))
        value = value + conv(f"{name}.conv3", gated) * p[f"{name}.beta"]
        gated = gate(conv(f"{name}.conv4", norm(f"{name}.norm2", value)))
        return value + conv(f"{name}.conv5", gated) * p[f"{name}.gamma"]

    def blocks(name: str, value: Tensor) -> Tensor:
        for number in range(sum(key.startswith(f"{name}.") and key.endswith("beta") for key in p)):
            value = block(f"{name}.{number}", value)
        return value

    levels = sum(key.startswith("downs.") and key.endswith("weight") for key in p)
    value, skips = conv("intro", x, padding=1), []
    for level in range(levels):
        skips.append(blocks(f"encoders.{level}", value))
        value = conv(f"downs.{level}", skips[-1], stride=2)
    value = blocks("middle_blks", value)
    for level in range(levels):
        value = F.pixel_shuffle(conv(f"ups.{level}.0", value), 2) + skips[-1 - level]
        value = blocks(f"decoders.{level}", value)
    return conv("ending", value, padding=1) + x


CASES = {
    "promptir": (promptir.PromptIR, promptir.Config(**WIDTHS, **PROMPTS), literal_promptir),
    "restormer": (restormer.Restormer, restormer.Config(**WIDTHS), literal_restormer),
    "bias-free": (restormer.Restormer, restormer.Config(**WIDTHS, norm="bias_free"), literal_restormer),
    "nafnet": (
        nafnet.NAFNet,
        nafnet.Config(channels=6, encoder_blocks=(1, 0, 2), middle_blocks=1, decoder_blocks=(1, 2, 1)),
        literal_nafnet,
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_outputs_and_gradients_equal_the_literal_formula(name):
    network, config, literal = CASES[name]
    model = dynet_literal.randomised(network(config)).double()
    x = torch.rand(2, 3, 16, 24, dtype=torch.float64, generator=torch.Generator().manual_seed(2))
    fast = channels_last(model)(x)
    fast.square().mean().backward()
    fast_gradients = dynet_literal.gradients(model)
    model.zero_grad()
    slow = literal(dict(model.named_parameters()), x)
    slow.square().mean().backward()
    torch.testing.assert_close(fast, slow, rtol=1e-9, atol=1e-10)
    slow_gradients = dynet_literal.gradients(model)
    assert fast_gradients.keys() == slow_gradients.keys() == dict(model.named_parameters()).keys()
    for key, value in slow_gradients.items():
        assert (fast_gradients[key] - value).norm() <= 1e-8 * value.norm() + 1e-12, key
