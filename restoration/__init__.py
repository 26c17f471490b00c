"""Train, evaluate and use restoration networks from shards, on one GPU or a CPU."""

__distribution__ = "irdistill"
