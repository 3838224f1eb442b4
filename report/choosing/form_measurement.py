"""The result of measuring a form, as a struct. It has its own module, which imports no large library."""

from fewstep.plans.spec import Strict
from fewstep.runtime.backends.onnxruntime_cuda_form import FormChoice

USUAL_ROWS = 2  # rows of a call: those of a guided sample


class FormMeasurement(Strict, frozen=True):
    """The form of a body's graph for ONNX Runtime's CUDA provider, compared with the portable graph.

    graph: the graph's name. precision: that of the body. rows: the rows of a call. choice: what was measured; None if
        nothing was. reason: why the form was not measured, or does not run. is_preferred: whether the form runs where
        nothing was measured.
    """

    graph: str
    precision: str
    rows: int
    choice: FormChoice | None = None
    reason: str = ""
    is_preferred: bool = True

    def __str__(self) -> str:
        if self.choice is None:
            rule = f"by rule the {'form' if self.is_preferred else 'portable graph'} runs in {self.precision}"
            return f"{self.graph}: the form was not measured ({self.reason}); {rule}"
        if self.reason:
            return f"{self.graph}: the portable graph runs, because {self.reason}"
        runs = "form" if self.choice.is_faster else "portable graph"
        return f"{self.graph}: the form takes {self.choice.ratio:.2f} of the portable graph's time, so the {runs} runs"
