"""One file = one complexity measure: `class Plugin` whose `measure` says how much is going on in each view."""
