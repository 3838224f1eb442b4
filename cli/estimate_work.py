"""The estimate of a calibration, a choice or a fit, before its verb is run."""

from dataclasses import replace

from fewstep.calibration.options import CalibrateOptions
from fewstep.measure.estimate import Estimate
from fewstep.report.advice import LongWork
from fewstep.report.choosing.options import ChooseOptions


def estimate_work(options: LongWork) -> Estimate:
    """Estimate the duration of a calibration, a choice or a fit."""
    if isinstance(options, CalibrateOptions):
        return _estimate_calibration(options)
    if isinstance(options, ChooseOptions):
        from fewstep.report.choosing.choose import open_judging, plans_by_body
        from fewstep.report.choosing.cost import estimate

        judging = open_judging(options)
        return estimate(judging, plans_by_body(judging, options.plan), options.threads, options.milliseconds)
    from fewstep.fitting.cost import estimate_fit
    from fewstep.fitting.requirements import BODY
    from fewstep.fitting.task import open_fit_task
    from fewstep.plans.guidance import weight_of
    from fewstep.runtime.bundle.reading import open_bundle
    from fewstep.runtime.sampling.calibrated_plans import find_defaults

    opened = open_bundle(options.bundle)
    guidance = weight_of(find_defaults(opened, opened.body(BODY), None).guidance)
    return estimate_fit(open_fit_task(replace(options, guidance=guidance)))


def _estimate_calibration(options: CalibrateOptions) -> Estimate:
    from fewstep.calibration.cost import estimate_cost
    from fewstep.calibration.open_task import open_tasks
    from fewstep.calibration.options import check_options

    return estimate_cost([*open_tasks(options.open(), options, check_options(options)).values()]).estimate
