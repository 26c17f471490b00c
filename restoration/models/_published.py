"""Loading parameters by name, strictly, with an error that a person can act on."""

from __future__ import annotations

from collections.abc import Collection, Mapping

from torch import Tensor, nn

from curate.core.errors import ManifestError


def load_exactly(module: nn.Module, state: Mapping[str, Tensor], *, dropped: Collection[str] = ()) -> None:
    """Copy every parameter into `module`; nothing may be missing, left over or of another shape.

    Args:
        module: changed in place, not at all where an error is raised.
        state: name -> value.
        dropped: names that may be in `state` and are not used.

    Raises:
        ManifestError: names the first parameter that is missing, unknown or of another shape.
    """
    given = {name: value for name, value in state.items() if name not in dropped}
    wanted = module.state_dict()
    missing = [name for name in wanted if name not in given]
    unknown = [name for name in given if name not in wanted]
    if missing or unknown:
        raise ManifestError("; ".join(_counted(missing, "missing") + _counted(unknown, "not of this network")))
    for name, value in wanted.items():
        if given[name].shape != value.shape:
            raise ManifestError(f"{name} has shape {tuple(given[name].shape)}, this network wants {tuple(value.shape)}")
    module.load_state_dict(given)


def _counted(names: list[str], what: str) -> list[str]:
    return [f"{len(names)} parameters {what}, first {names[0]}"] if names else []
