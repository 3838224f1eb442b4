"""Find types of guidance that depend on earlier steps, such as guidance with momentum, in recordings."""
