"""From near pairs to groups and to who stays: connected components, and no dropped member that is unlike its keeper.

Nearness is not transitive: in a chain a-b-c-d each is near the next, and a and d may be different photographs. A group is a
connected component (what a split or a report must hold together), but inside it only a member directly near a kept one is
dropped: members are taken from the best down, each not yet dropped is kept and drops those near it. So no kept two are near
each other, every dropped one is within the radius of its keeper, and a group keeps at least its best.

The result depends on the pairs as a set and on the rank only, not on the order of pairs.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray


def components(num: int, first: NDArray[np.int64], second: NDArray[np.int64]) -> NDArray[np.int64]:
    """Find what hangs together.

    Args:
        num: number of members.
        first: (P,) int64, one end of each pair, in [0, num).
        second: (P,) int64, the other end; either order, repeats allowed.

    Returns:
        (num,) int64: the lowest index of each member's component (its own where it is alone).

    Example:
        >>> components(4, np.array([3]), np.array([1])).tolist()
        [0, 1, 2, 1]
    """
    from scipy.sparse import coo_array  # here: it takes 0.1 s
    from scipy.sparse.csgraph import connected_components

    graph = coo_array((np.ones(len(first), np.bool_), (first, second)), shape=(num, num))
    _, label = connected_components(graph, directed=False)
    lowest = np.full(num, num, np.int64)
    np.minimum.at(lowest, label, np.arange(num))
    roots: NDArray[np.int64] = lowest[label]
    return roots


def keepers(
    num: int, first: NDArray[np.int64], second: NDArray[np.int64], rank: NDArray[np.int64]
) -> NDArray[np.int64]:
    """Choose who stays.

    Args:
        num: number of members.
        first: (P,) int64, one end of each near pair.
        second: (P,) int64, the other end.
        rank: (num,) numbers, the lowest is kept first; equal ones: the lower index.

    Returns:
        (num,) int64: for each member the kept one that it is near; its own index if it is kept. A member near several
        kept ones goes to the best of them.

    Example:
        >>> keepers(4, np.array([0, 1, 2]), np.array([1, 2, 3]), np.array([0, 1, 2, 3])).tolist()  # a chain
        [0, 0, 2, 2]
    """
    ends, others = np.concatenate([first, second]), np.concatenate([second, first])
    neighbours = others[np.argsort(ends, kind="stable")]
    stops = np.cumsum(np.bincount(ends, minlength=num))
    keeper = np.arange(num)
    free = np.ones(num, np.bool_)
    paired = np.flatnonzero(np.diff(stops, prepend=0))
    for member in paired[np.argsort(rank[paired], kind="stable")].tolist():
        if free[member]:
            near = neighbours[stops[member - 1] if member else 0 : stops[member]]
            near = near[free[near]]
            free[near] = False
            free[member] = False
            keeper[near] = member
            keeper[member] = member
    return keeper


def keepers_of_classes(
    inverse: NDArray[np.int64], first: NDArray[np.int64], second: NDArray[np.int64], rank: NDArray[np.int64]
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Choose who stays where equal members were made one before pairs were looked for (`hamming.collapse`).

    Args:
        inverse: (N,) int64, the class of each member; every class in 0..max has one.
        first: (P,) int64, one class of each near pair.
        second: (P,) int64, the other class.
        rank: (N,) numbers of the members, the lowest is kept first; equal ones: the lower index.

    Returns:
        (N,) int64: for each member its keeper, as `keepers` does; (N,) int64: for each member the lowest index of its
        component. Members of one class count as near each other, and as near to what their class is near to.
    """
    num = int(inverse.max()) + 1 if len(inverse) else 0
    order = np.argsort(rank, kind="stable")
    place = np.empty(len(inverse), np.int64)
    place[order] = np.arange(len(inverse))
    best = np.full(num, len(inverse), np.int64)
    np.minimum.at(best, inverse, place)
    keeper = order[best[keepers(num, first, second, best)]]
    lowest = np.full(num, len(inverse), np.int64)
    root = components(num, first, second)
    np.minimum.at(lowest, root[inverse], np.arange(len(inverse)))
    return keeper[inverse], lowest[root[inverse]]
