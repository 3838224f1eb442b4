"""Plans: samplers as tables of numbers, compiled from schedules, solvers and grids with numpy and msgspec."""
