"""Class-conditional UNet on CIFAR-10: `unet.py` defines it, `train.py` trains it. Its weights are not shipped yet."""
