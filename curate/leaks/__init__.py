"""Decontamination: find benchmark pictures, their crops, resizes, mirror images and recompressions in any picture."""
