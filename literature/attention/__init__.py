"""Changes of a network's attention, controlled by conditions."""
