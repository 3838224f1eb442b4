"""Changes of the skip connections of a U-Net."""
