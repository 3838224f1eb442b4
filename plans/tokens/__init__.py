"""Plans of token denoisers, and their samplers."""
