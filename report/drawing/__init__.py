"""Samples are drawn here as pictures, and figures as charts."""
