"""Published searches for the numbers of a plan, as options beside the fit: rows by least squares, and grids."""
