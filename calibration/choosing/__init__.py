"""Choices of a calibration that evidence decides: methods of ranges are tried closed loop, and the best one is kept."""
