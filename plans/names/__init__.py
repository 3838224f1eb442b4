"""What a text names: a plan, its solver and its grid, a guidance, code."""
