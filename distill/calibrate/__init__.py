"""Calibrations, one file each: what is done to a chosen subset so that it looks more like the corpus it came from."""
