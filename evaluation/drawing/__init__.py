"""Samples as pictures, and figures as drawings."""
