"""Plans: samplers as tables of coefficients, compiled from schedules, solvers and grids with numpy and msgspec."""
