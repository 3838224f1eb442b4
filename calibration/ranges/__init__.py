"""From watched activations to ranges: histograms, the methods that clip them, and the table of the results."""
