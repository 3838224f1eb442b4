"""Numbers of a plan that are chosen by looking at data: statistics, ratios, guidance."""
