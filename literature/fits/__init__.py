"""The literature's fits, for programs: no verb calls them. `fewstep fit` is nearer to the teacher than those judged, on
two denoisers at 5 evaluations (lab/trials.md). OLSS's path search, `fitting.teacher_path`, is a start of
that fit.

A module with a function `fitted` takes a `fit_setting.FitSetting` and returns a plan of as many evaluations as the
nominal one. The other functions take what was sampled, as arrays or through a callable that samples, and return the
numbers of a solver or a guidance. A docstring names the paper, and how the function differs.

    auto_diffusion      times by evolution
    compensation        ratios of predictions, for dc_solver
    ems                 statistics of a denoiser, for dpm_v3
    olss                rows and times, by the states of a teacher
    solver_search       the decisions of a unified solver (usf) and its times, by evolution
    teleportation       a start by the statistics of samples, which saves first steps
    time_shift          times of the network that x looks like
    guidance            weights of guidance by step
"""
