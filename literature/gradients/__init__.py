"""The gradient of an energy as a second output."""
