"""A run as parts, for a program that runs the steps itself: before the steps, one step, and after them."""
