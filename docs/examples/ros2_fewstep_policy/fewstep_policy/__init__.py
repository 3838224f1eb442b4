"""A policy of fewstep as a ROS 2 node."""
