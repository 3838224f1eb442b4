"""Fitting chooses numbers of a plan from data: statistics, ratios, guidance."""
