import numpy as np
def keepers(num, pairs, rank):
    near = {i: set() for i in range(num)}
    for a, b in pairs.tolist():
        near[a].add(b); near[b].add(a)
    out = np.full(num, -1)
    for i in np.argsort(rank, kind="stable"):
        if out[i] < 0:
            out[i] = i
            for j in near[i]:
                if out[j] < 0:
                    out[j] = i
    return out
