"""The report is one page on the quality that int8 cost and the time that it won, per step and operation."""

from fewstep.evaluation.report.options import ReportOptions
from fewstep.evaluation.report.write import open_report, report

__all__ = ["ReportOptions", "open_report", "report"]
