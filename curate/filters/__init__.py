"""One file = one filter: `class Plugin` with `columns`, `measure` and `judge` (see docs/extending.md)."""
