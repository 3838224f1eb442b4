"""`fewstep encode`: write encoded prompts to a file, and print its arrays with their shapes."""

from fewstep.cli.outcome import Outcome, pluralize
from fewstep.pipelines.encode import EncodeOptions, encode
from fewstep.runtime.progress import Progress


def verb(options: EncodeOptions, progress: Progress) -> Outcome:
    made = encode(options)
    rows, shapes = len(next(iter(made.values()))), {name: list(array.shape[1:]) for name, array in made.items()}
    listed = ", ".join(f"{name} {shape}" for name, shape in shapes.items())
    value = {"output": options.output, "samples": rows, "shapes": shapes}
    return Outcome(value, (f"{options.output}: {listed} for {pluralize(rows, 'sample')}",))
