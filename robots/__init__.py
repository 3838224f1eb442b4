"""Robot policies: the control loop, the reader of LeRobot's files, and networks. No other package imports this one."""
