"""The literature's fits, for programs: no verb calls them, since `fewstep fit` is nearer to the teacher.

Each is one function of one form. What was sampled goes in, as arrays or through a callable that samples. The numbers
come out that a plan, its solver or its guidance takes. A docstring names the paper, and how the function differs.

    ems.estimate_ems            statistics of a denoiser, for dpm_v3
    compensation.fit_ratios     ratios of predictions, for dc_solver
    noise_norms.norm_ratios     step sizes of a corrector, for score_sde_pc
    guidance.adaptive, linear   weights of guidance by step, after guidance.collect
    olss.fit_rows               rows of a plan, by the states of a teacher
    times.fit_times             times of a solver's steps
"""
