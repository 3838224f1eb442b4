"""Trace code that loops over the samples of a batch, or selects tokens by a mask, as code of one sample."""
