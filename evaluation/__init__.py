"""Evaluation judges calibrated bodies: distances to float32, speed, and the report of both."""
