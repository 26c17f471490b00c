"""One file = one selector: `class Plugin` whose `select` chooses exactly `num` of N patches."""
