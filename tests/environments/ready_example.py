"""Run the six lines of fewstep.models.ready, where only fewstep[cpu] is installed: `python THIS`."""

import sys
import time

from fewstep.models import ready

started = time.perf_counter()
names: dict[str, object] = {}
exec((ready.__doc__ or "").partition("\n\n")[2], names)
print(f"{getattr(names['x'], 'shape', None)} from the ready bundle in {time.perf_counter() - started:.2f} s")
assert "torch" not in sys.modules and "onnx" not in sys.modules
