"""Which few per cent of a corpus teach the most? ViT complexity -> budgeted subset -> two-stage curriculum shards."""

__distribution__ = "irdistill"
