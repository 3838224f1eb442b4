"""What torch cannot trace as it is: complex tensors, short lists of numbers, arithmetic on sizes."""
