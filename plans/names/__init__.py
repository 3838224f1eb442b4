"""The meaning of a text that names a plan, its solver and its grid, a guidance, code."""
