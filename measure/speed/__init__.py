"""Measure the speed of bodies and other contenders in alternating turns, and describe the machine."""
