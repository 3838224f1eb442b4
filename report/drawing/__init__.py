"""Draw samples as pictures, and figures as plots."""
