"""Qualcomm's Hexagon through QNN, as in `qnn.py`, except that the operations that `select_int8_ops` chooses read 8
bits. The 8-bit ranges are those with the least squared error."""

from dataclasses import replace

from fewstep.calibration.lowering.targets.qnn import QNN
from fewstep.runtime.bundle import platforms

QNN_8BIT = replace(QNN, platform=platforms.QNN_8BIT, scheme=replace(QNN.scheme, narrow=True))
