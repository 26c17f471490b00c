"""A network with its choices made: how deep, for which task. Whoever runs a network runs it through `bind`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from torch import Tensor, nn

from curate.core.errors import ConfigError


@dataclass(frozen=True, slots=True)
class Bound:
    """A network, and what each call of it asks for.

    Attributes:
        module: a network of `restoration.models`.
        reuse: how often its blocks are applied; None where the depth cannot be chosen.
        task: which of its heads is used; "" where it has one for all.
        scale: the output's height and width are this many times the input's.
    """

    module: nn.Module
    reuse: tuple[int, ...] | None = None
    task: str = ""
    scale: int = 1

    def __call__(self, x_BCHW: Tensor) -> Tensor:
        """Restore a batch: (B, 3, H, W) in [0, 1] to (B, 3, scale * H, scale * W), not clamped."""
        return self.module(x_BCHW, self.reuse or self.task or None)  # type: ignore[no-any-return]


def bind(module: nn.Module, *, depth: str = "", task: str = "") -> Bound:
    """Choose depth and head.

    Args:
        module: a network of `restoration.models`.
        depth: `s`, `l` or counts such as `4,6,6,8`; "" for the depth it was trained with.
        task: name of a head, such as `sr2`; networks without heads take any task and use none.

    Raises:
        ConfigError: no such depth or head.
    """
    heads: Mapping[str, int] = module.tasks  # type: ignore[assignment]
    reuse = parse_depth(module, depth)
    if not heads:
        return Bound(module, reuse)
    if not task and len(heads) == 1:
        [task] = heads
    if task not in heads:
        got = f"got {task!r}" if task else "name one (--task)"
        raise ConfigError(f"this network has heads for {', '.join(heads)}; {got}")
    return Bound(module, reuse, task, heads[task])


def parse_depth(model: nn.Module, text: str) -> tuple[int, ...] | None:
    """Turn `s`, `l` or `4,6,6,8` into reuse counts.

    Args:
        model: a network of `restoration.models`.
        text: what the user wrote; "" for the depth it was trained with.

    Returns:
        Counts for `forward(x, reuse)`; None for "" on a network without depths.

    Raises:
        ConfigError: not a depth, or the network has only one.
    """
    depths: Mapping[str, tuple[int, ...]] = model.depths  # type: ignore[assignment]
    trained: tuple[int, ...] = model.reuse  # type: ignore[assignment]
    if not text:
        return trained or None
    if not depths:
        raise ConfigError(f"depth {text!r}: this network has one depth only")
    if text in depths:
        return depths[text]
    parts = text.split(",")
    if len(parts) != len(trained) or not all(part.strip().isdigit() and 1 <= int(part) <= 64 for part in parts):
        example = ",".join(map(str, list(depths.values())[-1]))
        raise ConfigError(
            f"depth must be {', '.join(depths)} or {len(trained)} counts from 1 to 64 such as {example}, got {text!r}"
        )
    return tuple(int(part) for part in parts)
