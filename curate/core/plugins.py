"""Plug-ins by file name: `load("curate.filters", "sharpness")` imports `curate/filters/blur.py`, and nothing else.

Names may use `-` for `_`. Other distributions add plug-ins through entry points of the group `irdistill.<folder>`.
"""

from __future__ import annotations

import difflib
import importlib
import importlib.util
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any

from .errors import PluginError


def names(package: str) -> tuple[str, ...]:
    """List the plug-ins of a folder, sorted; imports no plug-in."""
    return tuple(sorted(_files(package) | {entry.name for entry in entry_points(group=_group(package))}))


def load(package: str, name: str) -> Any:
    """Return the attribute `Plugin` of `package`'s file `name`.py.

    Raises:
        PluginError: no such file; lists near names.
    """
    module_name = name.replace("-", "_")
    if module_name in _files(package):
        return importlib.import_module(f"{package}.{module_name}").Plugin
    for entry in entry_points(group=_group(package), name=module_name):
        return entry.load()
    known = names(package)
    near = difflib.get_close_matches(module_name, known, n=3, cutoff=0.4) or list(known)
    raise PluginError(f"no {package.rsplit('.', 1)[-1]} plug-in called {name!r}; near names: {', '.join(near)}")


def _files(package: str) -> set[str]:
    spec = importlib.util.find_spec(package)
    folders = spec.submodule_search_locations if spec is not None else None
    if not folders:
        raise PluginError(f"{package} is not a plug-in folder")
    return {file.stem for folder in folders for file in Path(folder).glob("*.py") if not file.stem.startswith("_")}


def _group(package: str) -> str:
    return "irdistill." + package.rsplit(".", 1)[-1]
