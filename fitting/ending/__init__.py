"""The end of a fit: the features of samples, their energy, their distance to the teacher's, and their limit."""
