"""Evaluation judges calibrated bodies (distances to float32, speed, the report of both), bundles and this machine."""
