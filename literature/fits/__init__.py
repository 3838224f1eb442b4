"""Fits from the literature, to be called from Python: no verb uses them. In a comparison on two denoisers with 5
evaluations, `fewstep fit` was closer to the teacher (lab/trials.md). OLSS's path search, `fitting.teacher_path`,
provides start plans for `fewstep fit`.

A module with a function `fit_plan` takes a `fit_setting.FitSetting` and returns a plan with the same number of
evaluations as the nominal plan. The other functions take samples, as arrays or from a callable that samples, and return
parameters of a solver or of guidance. Each docstring names the paper and how the function differs from it.

    auto_diffusion      times, by evolution
    compensation        ratios of predictions, for dc_solver
    ems                 statistics of a denoiser, for dpm_v3
    olss                rows and times, from the states of a teacher
    solver_search       decisions of a unified solver (usf) and its times, by evolution
    teleportation       a start from the statistics of samples, which saves the first steps
    time_shift          times for the network, from the variance of x
    guidance            weights of guidance for each step
"""
