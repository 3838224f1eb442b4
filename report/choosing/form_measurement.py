"""The result of timing a graph rewritten for the CUDA provider against the portable graph. It is in a separate module,
which imports no large library."""

from fewstep.plans.spec import Strict
from fewstep.runtime.backends.onnxruntime_cuda_form import FormChoice

USUAL_ROWS = 2  # rows of a call: those of a guided sample


class FormMeasurement(Strict, frozen=True):
    """The speed of a graph rewritten for ONNX Runtime's CUDA provider, compared with the portable graph.

    graph: the graph's name. precision: the precision of its body. rows: the number of rows per call. choice: the
        measured times; None if nothing was measured. reason: why the rewritten graph was not measured, or cannot run.
        is_preferred: whether the rewritten graph is run where nothing was measured.
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
