"""Denoisers with the gradient of an energy as a second output."""
