"""Changes of a network's attention, each led by conditions of its own."""
