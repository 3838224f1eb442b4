"""A struct for the measured time of a form. This module imports no large library."""

from fewstep.plans.spec import Strict
from fewstep.runtime.backends.onnxruntime_cuda_form import PREFERRED, FormChoice

USUAL_ROWS = 2  # of a call: a guided sample


class FormMeasurement(Strict, frozen=True):
    """The form of a body's graph for ONNX Runtime's CUDA provider, compared with the portable graph.

    graph: its name. precision: of the body. rows: of a call. choice: None if nothing was measured. reason: why the form
    was not measured, or does not run.
    """

    graph: str
    precision: str
    rows: int
    choice: FormChoice | None = None
    reason: str = ""

    def __str__(self) -> str:
        if self.choice is None:
            rule = f"by rule the {'form' if PREFERRED[self.precision] else 'portable graph'} runs in {self.precision}"
            return f"{self.graph}: the form was not measured ({self.reason}); {rule}"
        if self.reason:
            return f"{self.graph}: the portable graph runs, because {self.reason}"
        runs = "form" if self.choice.is_faster else "portable graph"
        return f"{self.graph}: the form takes {self.choice.ratio:.2f} of the portable graph's time, so the {runs} runs"
