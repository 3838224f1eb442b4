"""Class-conditional UNet on Fashion-MNIST: `unet.py` defines it, `train.py` trained it, `card.md` says how well."""
