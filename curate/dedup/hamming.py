import numpy as np
def pairs_within(hashes, *, radius_bits, queries=None):
    q = hashes if queries is None else queries
    d = np.bitwise_count(q[:, None] ^ hashes[None])
    m = d <= radius_bits
    if queries is None:
        m = np.triu(m, 1)
    i, j = np.nonzero(m)
    return i, j, d[i, j]
