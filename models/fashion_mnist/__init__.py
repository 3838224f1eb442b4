"""A class-conditional U-Net on Fashion-MNIST. `unet.py` defines it, `train.py` trained it, and `card.md` describes its
quality."""
