"""LeRobot's policy folders are sources, read without lerobot."""
