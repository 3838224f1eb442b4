"""Whether the graphs of an export compute what their source does."""
