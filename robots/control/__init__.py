"""Run a policy in a control loop: it takes observations, and returns actions in the robot's units.

`PolicyRunner` is the complete loop. Its parts can also be used separately:

    history = History(sampler)
    history.add({"observation.state": joints})                       # at every tick
    actions = sample_actions(sampler, plan, history.window(), seed)  # actions[0] is for the tick of that window

A robot does not wait for sampling. While it executes one sequence of actions, another thread samples the next one, from
a window of observations that does not change. `former` and `decided` of `sample_actions` make the next sequence
continue the previous one.
"""

from fewstep.robots.control.actions import Continuity, SequenceRequest, sample_actions, sample_sequences
from fewstep.robots.control.chunk import Chunk, pad_actions
from fewstep.robots.control.clocks import Clock, VirtualClock, WallClock
from fewstep.robots.control.history import History, Window
from fewstep.robots.control.language import with_prompt
from fewstep.robots.control.latency import delay_ticks, ticks_between
from fewstep.robots.control.limits import Limits
from fewstep.robots.control.policy_plans import compile_policy_plan
from fewstep.robots.control.rhythm import Rhythm
from fewstep.robots.control.runner import PolicyRunner
from fewstep.robots.control.safety import Safety
from fewstep.robots.control.statistics import LoopStatistics, Quantiles
from fewstep.robots.control.tick import Action
from fewstep.runtime.arrays import UnusableValue

__all__ = [
    "Action",
    "Chunk",
    "Clock",
    "Continuity",
    "History",
    "Limits",
    "LoopStatistics",
    "PolicyRunner",
    "Quantiles",
    "Rhythm",
    "Safety",
    "SequenceRequest",
    "UnusableValue",
    "VirtualClock",
    "WallClock",
    "Window",
    "compile_policy_plan",
    "pad_actions",
    "sample_actions",
    "sample_sequences",
    "ticks_between",
    "delay_ticks",
    "with_prompt",
]
