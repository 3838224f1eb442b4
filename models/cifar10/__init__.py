"""Class-conditional UNet on CIFAR-10: `unet.py` defines it, `train.py` trained it, `card.md` says how well."""
