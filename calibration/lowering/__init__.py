"""From the prepared graph to int8, for each target."""
