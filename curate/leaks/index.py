"""Nearest descriptors of a pack: a small approximate index of faiss, then exact distances of its best guesses.

The index holds every benchmark descriptor and its mirror image in 4-bit product codes (32 bytes each); row i + N is the
mirror image of row i. Small packs are searched exactly.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from .keypoints import DESCRIPTOR_LENGTH, mirror_descriptors

_EXACT_BELOW = 8192  # rows; fewer cannot train 1024 lists, and take no time to search
_ROWS_PER_LIST, _MAX_LISTS, _CODES = 64, 1024, "PQ64x4fs"
_NUM_PROBES = 16  # of 1024 lists: finds 99.5 % of near descriptors (2026-11, 700 k rows)
_NUM_GUESSES = 8
_ADD_ROWS = 65536
_SEED = 1234


def build_index(descriptors: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Build and serialise the index of (N, 128) uint8 descriptors and their mirror images; the same on every call."""
    import faiss

    rows = np.concatenate([descriptors, mirror_descriptors(descriptors)])
    if len(rows) < _EXACT_BELOW:
        return np.zeros(0, np.uint8)
    num_lists = min(_MAX_LISTS, 1 << int(np.log2(len(rows) / _ROWS_PER_LIST)))
    index: Any = faiss.index_factory(DESCRIPTOR_LENGTH, f"IVF{num_lists},{_CODES}")
    index.cp.max_points_per_centroid, index.cp.seed = _ROWS_PER_LIST, _SEED
    chosen = np.random.default_rng(_SEED).permutation(len(rows))[: num_lists * _ROWS_PER_LIST]
    with one_thread():
        index.train(rows[np.sort(chosen)].astype(np.float32))
        for start in range(0, len(rows), _ADD_ROWS):
            index.add(rows[start : start + _ADD_ROWS].astype(np.float32))
    index.nprobe = min(_NUM_PROBES, num_lists)
    return np.array(faiss.serialize_index(index), dtype=np.uint8)


class one_thread:  # noqa: N801 - reads as a function
    """Let faiss use one thread within the block: workers share the machine, and sums keep their order."""

    def __enter__(self) -> None:
        import faiss

        self._before = faiss.omp_get_max_threads()
        faiss.omp_set_num_threads(1)

    def __exit__(self, *_: object) -> None:
        import faiss

        faiss.omp_set_num_threads(self._before)


class Nearest:
    """Finds a pack's nearest descriptors; made once a process."""

    def __init__(self, descriptors: NDArray[np.uint8], serialised: NDArray[np.uint8]) -> None:
        import faiss

        self._descriptors = descriptors
        self._index: Any
        if len(serialised):
            self._index = faiss.deserialize_index(serialised)
        else:
            self._index = faiss.IndexFlatL2(DESCRIPTOR_LENGTH)
            self._index.add(np.concatenate([descriptors, mirror_descriptors(descriptors)]).astype(np.float32))

    def search(self, queries: NDArray[np.uint8]) -> tuple[NDArray[np.intp], NDArray[np.float32]]:
        """Find near rows.

        Args:
            queries: (Q, 128) uint8.

        Returns:
            (Q, 8) rows of descriptors (+ N: mirror image; -1: none), and their exact L2 distances (inf: none).
        """
        if not len(queries) or not len(self._descriptors):
            return np.zeros((len(queries), 0), np.intp), np.zeros((len(queries), 0), np.float32)
        with one_thread():
            _, rows = self._index.search(queries.astype(np.float32), _NUM_GUESSES)
        num = len(self._descriptors)
        plain = self._descriptors[rows % num]
        mirrored = (rows >= num).nonzero()
        plain[mirrored] = mirror_descriptors(plain[mirrored])
        apart = plain.astype(np.int32) - queries[:, None].astype(np.int32)
        distances = np.sqrt(np.einsum("qgd,qgd->qg", apart, apart).astype(np.float32))
        return rows, np.where(rows >= 0, distances, np.float32(np.inf))
