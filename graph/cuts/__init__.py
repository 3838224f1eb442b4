"""Cut a graph into parts that run at different times, or that are loaded one after another because memory cannot hold
all."""
