"""The table of headlines in lab/systems.md: claims of the authors next to the figures of lines."""

from collections.abc import Sequence

from benchmarks.markdown import table
from lab.claims.claim import MORE_STEPS, OF_ITS_PLAN
from lab.claims.claim_lines import Line, contains_its_control

HEADER = ("system", "claim of the authors", "network", "figure", "ours, evaluations", "control, evaluations", "holds")
HEADLINES = (  # system of the line, the authors' words, their baseline
    ("DPM-Solver++", "15 to 20 steps of guided models, where DDIM has 100 to 250", "ddim in 100 steps"),
    ("DEIS", "10 steps, far better than DDIM", "ddim"),
    ("PNDM", "50 steps do for 1000 of DDIM", "ddim at 1000"),
    ("HB", "PLMS diverges less at strong guidance", "ghvb(beta=1)"),
    ("HB of order 4", "PLMS diverges less at strong guidance", "ipndm"),
    ("GHVB", "PLMS diverges less at strong guidance", "ghvb(beta=1)"),
    ("GHVB of order 4", "PLMS diverges less at strong guidance", "ipndm"),
    ("Nesterov", "PLMS diverges less at strong guidance", "ghvb(beta=1)"),
    ("Nesterov of order 4", "PLMS diverges less at strong guidance", "ipndm"),
    ("HB on UniPC", "UniPC diverges less at strong guidance", "unipc_2"),
    ("OLSS", "a least-squares solver beats the usual ones in 5 steps", "the best plan"),
    ("DC-Solver", "compensated predictions beat UniPC in 5 steps", "the best plan"),
    ("LCM-LoRA", "4 steps by an adapter", "the best plan at 4"),
    ("LoRA-enhanced distillation", "guidance in one branch", "two rows, 8 steps"),
    ("StoRM as published, 5 steps", "a tenth of the cost of SGMSE+", "sgmse, 60 evaluations"),
    ("MRS of the SDE", "10 to 20 times fewer steps of restoration", "sgmse, 60 evaluations"),
    ("BDIA", "exact inversion without a second evaluation", "ddim_inverse and ddim"),
    ("Skip-Tuning", "FID falls by scaled skip connections", "no scale"),
    ("noise search", "compute at the start is worth more than steps", MORE_STEPS),
    ("SVDD", "more reward than the best of N", OF_ITS_PLAN),
    ("Score-SDE", "a corrector is worth its evaluations", "the predictor alone"),
    ("Time-Shift Sampler", "better samples by shifted times, without training", "the same plan"),
)


def headline_table(lines: Sequence[Line]) -> str:
    """Return the table, with a row for each line of a headline."""
    return table(HEADER, [row for headline in HEADLINES for row in _rows(*headline, lines)])


def _rows(system: str, claim: str, control: str, lines: Sequence[Line]) -> list[tuple[str, ...]]:
    of = [line for line in lines if (line.system, line.control) == (system, control) and not contains_its_control(line)]
    return [
        (
            *(system, claim, line.model, line.figure),
            f"{line.ours:.2f}, {line.evaluations}",
            f"{line.control}: {line.plain:.2f}, {line.of_plain}",
            "yes" if line.holds else "not decided" if line.is_undecided else "no",
        )
        for line in of
    ]
