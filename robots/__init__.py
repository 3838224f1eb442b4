"""Robot policies: their control loop, LeRobot's files and the networks of both. Nothing else imports this room."""
