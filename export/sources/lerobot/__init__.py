"""LeRobot's policy folders as sources, without lerobot."""
