"""Check whether a spec agrees with samples of the training data, and name the likely mistake."""
