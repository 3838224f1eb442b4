"""Replace attention computations of a network by others, which conditions control."""
