"""Judges what calibration made: distances to float32, speed, and the report that shows both."""
