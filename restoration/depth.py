"""What `--depth` means for a network: a named depth, counts, or the depth it was trained with."""

from __future__ import annotations

from torch import nn

from curate.core.errors import ConfigError


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
    depths: dict[str, tuple[int, ...]] = model.depths  # type: ignore[assignment]
    trained: tuple[int, ...] = model.reuse  # type: ignore[assignment]
    if not text:
        return trained or None
    if not depths:
        raise ConfigError(f"depth {text!r}: this network has one depth only")
    if text in depths:
        return depths[text]
    parts = text.split(",")
    if len(parts) != len(trained) or not all(part.strip().isdigit() and 1 <= int(part) <= 64 for part in parts):
        example = ",".join(map(str, depths["l"]))
        raise ConfigError(
            f"depth must be {', '.join(depths)} or {len(trained)} counts from 1 to 64 such as {example}, got {text!r}"
        )
    return tuple(int(part) for part in parts)
