"""Chains as TOML files: what a step is, and every mistake in a file as one line that says where it stands."""

from __future__ import annotations

import dataclasses
import difflib
import functools
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from curate.core import plugins
from curate.core.config import build, read_toml
from curate.core.errors import ConfigError, PluginError

FOLDER = Path(__file__).parent / "chains"
ORDERS = ("fixed", "shuffled", "one_of")
MAX_DEPTH = 8
TOP_KEYS = ("order", "steps", "target_scale", "round_levels")


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """A degradation, or a group of steps.

    Attributes:
        degradation: name of a plug-in; "" for a group.
        settings: fields of its `Plugin`.
        steps: of a group.
        order: of a group: `fixed`, `shuffled`, or `one_of` them, chosen by weight.
        probability: that it happens at all.
        weight: among the steps of a group `one_of`; any positive scale.
        keep_order: in a shuffled group, steps marked so keep their order among each other.
    """

    degradation: str = ""
    settings: Mapping[str, Any] = field(default_factory=dict)
    steps: tuple[Step, ...] = ()
    order: str = "fixed"
    probability: float = 1.0
    weight: float = 1.0
    keep_order: bool = False

    def plugin(self) -> Any:
        """Make the degradation."""
        return build(_class_of(self.degradation), self.settings, where=self.degradation)


STEP_KEYS = tuple(item.name for item in dataclasses.fields(Step))


def read_chain(name_or_path: str) -> tuple[Step, float, bool]:
    """Read a chain: (outermost group, target scale, whether to round).

    Raises:
        ConfigError: no such file, or mistakes in it: one line each.
    """
    path = _find(name_or_path)
    values = read_toml(path)
    mistakes: list[str] = []
    _check_keys(values, TOP_KEYS, str(path), mistakes)
    root = _step({key: values[key] for key in ("order", "steps") if key in values}, str(path), mistakes, depth=0)
    scale = _number(values, "target_scale", 1.0, (1, 8), str(path), mistakes)
    rounds = values.get("round_levels", True)
    if not isinstance(rounds, bool):
        mistakes.append(f"{path}: round_levels must be true or false, got {rounds!r}")
    if mistakes:
        raise ConfigError("\n".join(mistakes))
    return root, scale, bool(rounds)


@functools.cache
def _class_of(name: str) -> Any:
    return plugins.load(__package__, name)


def _find(name_or_path: str) -> Path:
    if name_or_path.endswith(".toml"):
        return Path(name_or_path)
    path = FOLDER / f"{name_or_path.replace('-', '_')}.toml"
    if "/" in name_or_path or not path.is_file():
        known = ", ".join(sorted(found.stem for found in FOLDER.glob("*.toml")))
        raise ConfigError(f"no chain called {name_or_path!r}; shipped: {known}; or give a path ending in .toml")
    return path


def _step(values: Any, where: str, mistakes: list[str], *, depth: int) -> Step:
    """Read one step; what is wrong goes to `mistakes`, and something harmless stands in for it."""
    if not isinstance(values, Mapping):
        mistakes.append(f"{where} must be a table, got {values!r}")
        return Step()
    if depth > 0:
        _check_keys(values, STEP_KEYS, where, mistakes)
    keep_order = values.get("keep_order", False)
    if not isinstance(keep_order, bool):
        mistakes.append(f"{where}: keep_order must be true or false, got {keep_order!r}")
    common: dict[str, Any] = {
        "probability": _number(values, "probability", 1.0, (0, 1), where, mistakes),
        "weight": _number(values, "weight", 1.0, (0, 1e9), where, mistakes),
        "keep_order": bool(keep_order),
    }
    if ("degradation" in values) == ("steps" in values):
        mistakes.append(f"{where} needs either a degradation or steps")
        return Step()
    return _leaf(values, common, where, mistakes) if "degradation" in values else (
        _group(values, common, where, mistakes, depth=depth)
    )  # fmt: skip


def _leaf(values: Mapping[str, Any], common: Mapping[str, Any], where: str, mistakes: list[str]) -> Step:
    name, settings = values["degradation"], values.get("settings", {})
    if "order" in values:
        mistakes.append(f"{where}: order belongs to a group of steps, not to a degradation")
    if not isinstance(name, str) or not isinstance(settings, Mapping):
        mistakes.append(f"{where}: degradation must be a name and settings a table, got {name!r} and {settings!r}")
        return Step()
    step = Step(degradation=name.replace("-", "_"), settings=dict(settings), **common)
    try:
        if step.degradation == "chain":
            raise ConfigError("a chain inside a chain: write its steps as a group instead")
        step.plugin()
    except (ConfigError, PluginError) as error:
        mistakes.append(f"{where}: {error}")
    return step


def _group(
    values: Mapping[str, Any], common: Mapping[str, Any], where: str, mistakes: list[str], *, depth: int
) -> Step:
    order, steps = values.get("order", "fixed"), values["steps"]
    if order not in ORDERS:
        mistakes.append(f"{where}: order must be one of {', '.join(ORDERS)}, got {order!r}")
    if "settings" in values:
        mistakes.append(f"{where}: settings belong to a degradation, not to a group")
    if not isinstance(steps, list) or not steps or depth >= MAX_DEPTH:
        mistakes.append(f"{where}: steps must be a list with at least one step, nested at most {MAX_DEPTH} deep")
        return Step()
    inner = tuple(
        _step(
            item, f"{where}: steps[{number}]" if depth == 0 else f"{where}.steps[{number}]", mistakes, depth=depth + 1
        )
        for number, item in enumerate(steps)
    )
    if order == "one_of" and not any(step.weight > 0 for step in inner):
        mistakes.append(f"{where}: one step of a group one_of must have a weight above 0")
    return Step(steps=inner, order=str(order), **common)


def _check_keys(values: Mapping[str, Any], known: tuple[str, ...], where: str, mistakes: list[str]) -> None:
    for key in values:
        if key not in known:
            near = difflib.get_close_matches(key, known, n=1)
            hint = f"did you mean {near[0]!r}?" if near else f"known: {', '.join(known)}"
            mistakes.append(f"{where}: unknown key {key!r}; {hint}")


def _number(
    values: Mapping[str, Any], key: str, default: float, limits: tuple[float, float], where: str, mistakes: list[str]
) -> float:
    value = values.get(key, default)
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not limits[0] <= value <= limits[1]:
        mistakes.append(f"{where}: {key} must be a number from {limits[0]:g} to {limits[1]:g}, got {value!r}")
        return default
    return float(value)
