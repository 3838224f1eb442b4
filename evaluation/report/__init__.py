"""The report: what int8 cost in quality and won in time, per step and per operation, as one page anybody can open."""

from fewstep.evaluation.report.options import ReportOptions
from fewstep.evaluation.report.write import check, report

__all__ = ["ReportOptions", "check", "report"]
