"""What a calibration leaves to evidence: ways to calibrate a body are tried closed loop, and the best one is kept."""
