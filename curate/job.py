"""Which job an output belongs to: what it was asked, of which inputs, with which libraries; and what its last plan decided."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from .core import artifacts, config
from .core.errors import ConfigError
from .dedup.copies import Copy
from .dedup.rules import Dedup
from .fetch import config as fetching
from .intake import Intake
from .manifest import tool_versions
from .patches import SOURCE
from .plan import Earlier
from .splits import BY
from .world import World

if TYPE_CHECKING:
    from .build import BuildShardsConfig

RUN, PLAN, PLACES = "ledger/run.json", "ledger/plan.json", "ledger/places.json"
_NOT_CONTENT = (
    "source", "out", "publish", "workers", "engine", "paired", "url_column", "fetch", "against", "known",
)  # fmt: skip


def content_of(cfg: BuildShardsConfig, world: World) -> dict[str, Any]:
    """Say what a corpus depends on; no path, and nothing that changes no byte."""
    plain = {key: value for key, value in config.to_plain(cfg).items() if key not in _NOT_CONTENT}
    plain |= {"paired": cfg.paired is not None, **world.content()}
    return plain if Path(cfg.source).is_dir() else plain | {"fetch": fetching.content(cfg.fetch)}


def open_ledger(cfg: BuildShardsConfig, intake: Intake, world: World) -> bool:
    """Claim OUT for this config and these inputs; True if an earlier run of the same job was found.

    Raises:
        ConfigError: OUT was begun with another config, other inputs or other library versions.
    """
    if (cfg.out / RUN).exists():
        check_same_job(cfg, intake, world)
        return True
    against = [f"{pack.name}={pack.path}" for pack in world.packs]
    places = {"against": against, "known": [str(known.resolve()) for known in cfg.known]}
    artifacts.write_json(cfg.out / PLACES, places)  # for `retry`
    artifacts.write_json(cfg.out / RUN, _entry(cfg, intake, world))
    return False


def check_same_job(cfg: BuildShardsConfig, intake: Intake, world: World) -> None:
    """Compare this config and these inputs with those that OUT was begun with.

    Raises:
        ConfigError: something differs; says what.
    """
    found, entry = artifacts.read_json(cfg.out / RUN), _entry(cfg, intake, world)
    if isinstance(found.get("config"), dict):
        found["config"] = _of_this_release(found["config"])
    for part, meaning in (
        ("config", "another config"),
        ("inputs", "other inputs"),
        ("versions", "other library versions"),
    ):
        if found.get(part) != entry[part]:
            detail = _first_difference(found.get(part), entry[part])
            raise ConfigError(f"output {cfg.out} was begun with {meaning}{detail}; use a new OUT or delete this one")


def _entry(cfg: BuildShardsConfig, intake: Intake, world: World) -> dict[str, Any]:
    return {"config": content_of(cfg, world), "inputs": intake.fingerprint, "versions": versions_of(cfg)}


def _of_this_release(known: dict[str, Any]) -> dict[str, Any]:
    """Add what an earlier release had no word for: it was off."""
    recipe = {"dedup": config.to_plain(Dedup()), "split_by": list(BY), **known.get("recipe", {})}
    return {"against": [], "known": [], "splits": {}, **known, "recipe": recipe}


def versions_of(cfg: BuildShardsConfig) -> dict[str, str]:
    """Versions of every library that can change a byte of it."""
    return tool_versions(
        *(("PyTurboJPEG",) if cfg.patch_format == SOURCE else ()),
        *(("brisque",) if "brisque" in cfg.recipe.measure else ()),
    )


def _first_difference(found: Any, wanted: Any) -> str:
    if not isinstance(found, dict) or not isinstance(wanted, dict):
        return ""
    key = next(key for key in wanted | found if found.get(key) != wanted.get(key))
    return f" ({key}: {found.get(key)!r} then, {wanted.get(key)!r} now)" if key != "recipe" else " (recipe)"


def earlier_plan(out: Path) -> Earlier:
    """Read what the plan of the corpus decided when it was finished last; nothing before that."""
    path = out / PLAN
    if not path.exists():
        return Earlier()
    found = artifacts.read_json(path)
    copies = {int(index): config.build(Copy, copy, where=PLAN) for index, copy in found.get("copies", {}).items()}
    tiles = {
        int(index): {int(number): key for number, key in patches.items()}
        for index, patches in found.get("tiles", {}).items()
    }
    splits = {int(index): split for index, split in found.get("splits", {}).items()}
    return Earlier(shards=found["shards"], copies=copies, tiles=tiles, splits=splits)
