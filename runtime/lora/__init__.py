"""LoRA files, read without torch, and the slots of a bundle that they fill at run time."""
