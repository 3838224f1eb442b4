"""OpenVINO: CPUs, with int8 convolutions of its own.

    fewstep.runtime.load("bundle", "int8", backend=OpenVino())

A body is compiled for each batch, and for each choice of its other free sizes, that it meets. With the batch left open
the CPU plugin runs what stands between convolutions operation by operation; with all sizes known it makes one kernel of
each chain (measured in OpenVINO 2026.4 on AVX512-VNNI, a 2.7 M parameter UNet: a step in 0.8 of the time in float32, in
half of it in int8).
"""

import logging
import os
import shutil
import tempfile
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from threading import Lock
from types import MappingProxyType
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from fewstep.plans.errors import UserError
from fewstep.runtime import cache
from fewstep.runtime.backends import AHEAD, Arrays, LoadedGraph, graph_of
from fewstep.runtime.backends.checks import check_contexts, check_threads, imported
from fewstep.runtime.backends.interface import difference
from fewstep.runtime.backends.lanes import Lanes
from fewstep.runtime.backends.openvino_agreement import check
from fewstep.runtime.backends.openvino_forms import readable
from fewstep.runtime.bundle.manifest import GraphEntry, TensorEntry
from fewstep.runtime.bundle.platforms import OPENVINO, body_name
