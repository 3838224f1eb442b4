"""Robot policies: their control loop, LeRobot's files and the networks of both. No other package imports it."""
