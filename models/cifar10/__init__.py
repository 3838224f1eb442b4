"""A class-conditional U-Net on CIFAR-10. `unet.py` defines it, `train.py` trained it, and `card.md` describes its
quality."""
