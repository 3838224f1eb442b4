"""Judges: measures of samples by which a user decides, instead of by PSNR."""
