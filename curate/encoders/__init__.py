"""One file = one encoder: `class Plugin` whose `encode` turns images into rows and patch tokens."""
