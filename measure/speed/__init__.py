"""The speed of bodies and other contenders, measured in alternating turns, and the machine of the measurement."""
