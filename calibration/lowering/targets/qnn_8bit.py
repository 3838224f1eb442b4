"""Qualcomm's Hexagon through QNN, as in `qnn.py`, except that inner operations with weights read 8 bits. Their ranges
are those with the least error."""

from dataclasses import replace

from fewstep.calibration.lowering.targets.qnn import QNN
from fewstep.runtime.bundle import platforms

QNN_8BIT = replace(QNN, platform=platforms.QNN_8BIT, scheme=replace(QNN.scheme, narrow=True))
