"""Rules that find inputs with the same content: one file, one rule."""
