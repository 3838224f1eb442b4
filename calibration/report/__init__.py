"""The report: what int8 cost in quality and won in time, per step and per operation, as one page anybody can open."""

from fewstep.calibration.report.options import ReportOptions
from fewstep.calibration.report.write import check, report

__all__ = ["ReportOptions", "check", "report"]
