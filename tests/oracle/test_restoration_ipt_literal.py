"""IPT against a literal arrangement of torch's own parts (nn.MultiheadAttention, Unfold, Fold) from spec/ipt.md section 1."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from restoration.models import channels_last
from restoration.models.ipt import IPT, Config

SMALL = Config(
    channels=8, tile_px=24, num_heads=4, num_encoder_layers=2, num_decoder_layers=2, expansion=2,
    tasks={"sr2": 2, "sr3": 3, "sr4": 4, "rain": 1},
)  # fmt: skip


class LiteralEncoderLayer(nn.Module):
    def __init__(self, width: int, heads: int, expansion: int, need_weights: bool) -> None:
        super().__init__()
        self.self_attn = nn.MultiheadAttention(width, heads, bias=False)
        self.linear1, self.linear2 = nn.Linear(width, expansion * width), nn.Linear(expansion * width, width)
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.need_weights = need_weights

    def forward(self, y: Tensor) -> Tensor:
        normed = self.norm1(y)
        y = y + self.self_attn(normed, normed, normed, need_weights=self.need_weights)[0]
        return y + self.linear2(torch.relu(self.linear1(self.norm2(y))))


class LiteralDecoderLayer(nn.Module):
    def __init__(self, width: int, heads: int, expansion: int, need_weights: bool) -> None:
        super().__init__()
        self.self_attn = nn.MultiheadAttention(width, heads, bias=False)
        self.multihead_attn = nn.MultiheadAttention(width, heads, bias=False)
        self.linear1, self.linear2 = nn.Linear(width, expansion * width), nn.Linear(expansion * width, width)
        self.norm1, self.norm2, self.norm3 = nn.LayerNorm(width), nn.LayerNorm(width), nn.LayerNorm(width)
        self.need_weights = need_weights

    def forward(self, z: Tensor, memory: Tensor, embedding: Tensor) -> Tensor:
        normed = self.norm1(z)
        query = normed + embedding
        z = z + self.self_attn(query, query, normed, need_weights=self.need_weights)[0]
        query = self.norm2(z) + embedding
        z = z + self.multihead_attn(query, memory, memory, need_weights=self.need_weights)[0]
        return z + self.linear2(torch.relu(self.linear1(self.norm3(z))))


class LiteralLayers(nn.Module):
    def __init__(self, layers: list[nn.Module]) -> None:
        super().__init__()
        self.layers = nn.ModuleList(layers)


class LiteralPosition(nn.Module):
    def __init__(self, tokens: int, width: int) -> None:
        super().__init__()
        self.pe = nn.Embedding(tokens, width)


class LiteralBody(nn.Module):
    def __init__(self, config: Config, need_weights: bool) -> None:
        super().__init__()
        self.config = config
        tokens = (config.tile_px // config.patch_px) ** 2
        width = config.channels * config.patch_px**2
        sizes = (width, config.num_heads, config.expansion, need_weights)
        self.linear_encoding = nn.Linear(width, width)
        self.mlp_head = nn.Sequential(
            nn.Linear(width, config.expansion * width),
            nn.Dropout(0),
            nn.ReLU(),
            nn.Linear(config.expansion * width, width),
        )
        self.query_embed = nn.Embedding(len(config.tasks), tokens * width)
        self.encoder = LiteralLayers([LiteralEncoderLayer(*sizes) for _ in range(config.num_encoder_layers)])
        self.decoder = LiteralLayers([LiteralDecoderLayer(*sizes) for _ in range(config.num_decoder_layers)])
        self.position_encoding = LiteralPosition(tokens, width)

    def forward(self, features: Tensor, task: int) -> Tensor:
        patch, side = self.config.patch_px, self.config.tile_px
        x = nn.functional.unfold(features, patch, stride=patch).permute(2, 0, 1)  # (N, B, D)
        x = self.linear_encoding(x) + x
        x = x + self.position_encoding.pe.weight[:, None]
        for layer in self.encoder.layers:
            x = layer(x)
        memory, embedding = x, self.query_embed.weight[task].view(x.shape[0], 1, x.shape[2])
        for layer in self.decoder.layers:
            x = layer(x, memory, embedding)
        x = self.mlp_head(x) + x
        return nn.functional.fold(x.permute(1, 2, 0), (side, side), patch, stride=patch)


class LiteralResBlock(nn.Module):
    def __init__(self, channels: int) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(channels, channels, 5, padding=2), nn.ReLU(), nn.Conv2d(channels, channels, 5, padding=2)
        )

    def forward(self, x: Tensor) -> Tensor:
        return self.body(x) + x


def literal_tail(channels: int, scale: int) -> nn.Sequential:
    enlarge: list[nn.Module] = []
    for factor in {1: [], 2: [2], 3: [3], 4: [2, 2]}[scale]:
        enlarge += [nn.Conv2d(channels, factor * factor * channels, 3, padding=1), nn.PixelShuffle(factor)]
    return nn.Sequential(nn.Sequential(*enlarge), nn.Conv2d(channels, 3, 3, padding=1))


class LiteralIPT(nn.Module):
    """The whole network for tiles of one size; takes our state dict. `need_weights` as nn.MultiheadAttention means it."""

    def __init__(self, config: Config, *, need_weights: bool = True) -> None:
        super().__init__()
        self.tasks = list(config.tasks)
        self.sub_mean, self.add_mean = nn.Conv2d(3, 3, 1), nn.Conv2d(3, 3, 1)
        for shift in (self.sub_mean, self.add_mean):
            shift.requires_grad_(False)
        c = config.channels
        self.head = nn.ModuleList(
            nn.Sequential(nn.Conv2d(3, c, 3, padding=1), LiteralResBlock(c), LiteralResBlock(c)) for _ in self.tasks
        )
        self.body = LiteralBody(config, need_weights)
        self.tail = nn.ModuleList(literal_tail(c, scale) for scale in config.tasks.values())

    def forward(self, x: Tensor, task: str) -> Tensor:
        number = self.tasks.index(task)
        features = self.head[number](self.sub_mean(255 * x))
        return self.add_mean(self.tail[number](self.body(features, number) + features)) / 255


def gradients(model: nn.Module) -> dict[str, Tensor]:
    return {name: parameter.grad.clone() for name, parameter in model.named_parameters() if parameter.grad is not None}


@pytest.mark.parametrize("task", SMALL.tasks)
def test_outputs_and_gradients_equal_the_literal_arrangement(task):
    torch.manual_seed(0)
    model = channels_last(IPT(SMALL)).double()
    literal = LiteralIPT(SMALL).double()
    literal.load_state_dict(model.state_dict())
    x = torch.rand(2, 3, 24, 24, dtype=torch.float64)
    found = {}
    for net in (model, literal):
        output = net(x, task)
        output.square().mean().backward()
        found[net] = output.detach(), gradients(net)
    torch.testing.assert_close(*(output for output, _ in found.values()), rtol=1e-9, atol=1e-10)
    ours, theirs = (grads for _, grads in found.values())
    assert ours.keys() == theirs.keys() and len(ours) > 60
    for name, value in theirs.items():
        assert (ours[name] - value).norm() <= 1e-8 * value.norm() + 1e-12, name


def test_bf16_autocast_stays_near():
    torch.manual_seed(0)
    model = channels_last(IPT(IPT.PRESETS["tiny"])).eval()
    x = torch.rand(2, 3, 48, 48)
    with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16):
        rough = model(x, "noise30")
    with torch.inference_mode():
        exact = model(x, "noise30")
    assert rough.dtype == torch.float32 and len(rough.unique()) > 1000  # levels are not rounded to eight bits
    assert (rough - exact).square().mean().sqrt() <= 0.0125 * exact.std()
