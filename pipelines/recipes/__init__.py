"""One file = one recipe: a function `recipe()` that returns a full config; its docstring says command, cost and result."""
