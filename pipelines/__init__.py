"""The whole way in one recipe: curate -> distill -> train -> evaluate -> report."""

__distribution__ = "irdistill"
