"""Other arithmetic in the calls of attention, led by conditions."""
