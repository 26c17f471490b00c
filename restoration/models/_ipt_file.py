"""Which heads of a public IPT file a network takes. Heads are numbered there, not named (spec/ipt.md section 1)."""

from __future__ import annotations

import re
from collections.abc import Mapping

from torch import Tensor

from curate.core.errors import ManifestError

PUBLISHED_TASKS = {"sr2": 2, "sr3": 3, "sr4": 4, "rain": 1, "noise30": 1, "noise50": 1}  # heads 0..5 of IPT_pretrain.pt
EMBEDDING = "body.query_embed.weight"  # one row per head
_HEAD = re.compile(r"^(head|tail)\.(\d{1,3})\.")


def state_of_tasks(state: Mapping[str, Tensor], tasks: Mapping[str, int]) -> dict[str, Tensor]:
    """Return the parameters with the heads of `tasks`, in that order.

    Of a file with the six published heads those of the named tasks are taken, if all are among the published ones; else file
    and network must have equally many heads, and head i is task i. Rows of the embedding beyond the file's heads are
    dropped, as the published code never reads them.

    Raises:
        ManifestError: another number of heads.
    """
    num = len({match[2] for name in state if (match := _HEAD.match(name)) and match[1] == "head"})
    if num == len(PUBLISHED_TASKS) and set(tasks) <= set(PUBLISHED_TASKS):
        order = [list(PUBLISHED_TASKS).index(name) for name in tasks]
    elif num == len(tasks):
        order = list(range(num))
    else:
        raise ManifestError(
            f"the file holds {num} heads, this network {len(tasks)} ({', '.join(tasks)}); name the file's heads in a config: "
            f"[tasks] with a line NAME = SCALE for each{_guess(state) if num == 1 else ''}"
        )
    return _pick(state, order)


def _pick(state: Mapping[str, Tensor], order: list[int]) -> dict[str, Tensor]:
    """Renumber a file's heads: new head i is the file's head order[i]."""
    picked: dict[str, Tensor] = {}
    for name, value in state.items():
        match = _HEAD.match(name)
        if match is None:
            picked[name] = value
        elif int(match[2]) in order:
            picked[f"{match[1]}.{order.index(int(match[2]))}.{name[match.end() :]}"] = value
    rows = picked.get(EMBEDDING)
    if rows is not None and rows.ndim == 2 and len(rows) > max(order):
        picked[EMBEDDING] = rows[order]
    return picked


def _guess(state: Mapping[str, Tensor]) -> str:
    """Say which scale the one head of a file has."""
    shape = state["tail.0.0.0.weight"].shape if "tail.0.0.0.weight" in state else ()
    if len(shape) != 4:
        return ", here one of scale 1, such as noise30 = 1"
    scale = {9: 3, 4: 4 if "tail.0.0.2.weight" in state else 2}.get(shape[0] // max(shape[1], 1), 1)
    return f", here sr{scale} = {scale}"
