"""Compare the graphs of an export with their source."""
