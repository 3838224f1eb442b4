"""A sampler as a table of numbers. Schedules, solvers and grids are compiled into plans, with numpy and msgspec."""
