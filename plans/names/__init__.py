"""Parse texts that name a plan, its solver and grid, a guidance, or user-supplied code."""
