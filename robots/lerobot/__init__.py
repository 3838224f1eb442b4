"""Read policy folders of LeRobot as sources of an export, without the lerobot package."""
