"""Cut a graph into parts that run at different times, or that fit in memory one after another."""
