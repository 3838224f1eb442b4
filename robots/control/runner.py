"""Run a policy in a control loop: at each tick it takes an observation and returns an action at once.

    runner = PolicyRunner(sampler, Rhythm(80.0, "dpmpp_2m:2", execute=4, fade=4))
    with runner:
        runner.warm_up(observation)
        runner.reset(seed=0)
        runner.run(robot.observe, robot.move, seconds=60)  # or `runner.act(observation)` at each tick

A thread samples the next sequence while the current one is executed. The loop never waits for it: if it is late, the
current sequence continues, and each action reports that. With a `VirtualClock`, the same code runs reproducible
simulations.
"""

import dataclasses
import itertools
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import TracebackType
from typing import NoReturn

from numpy.typing import ArrayLike

from fewstep.plans.argument_checks import check_integer
from fewstep.plans.errors import UserError
from fewstep.plans.plan import Plan
from fewstep.plans.shaping import Shaping
from fewstep.robots.control import arguments
from fewstep.robots.control.actions import Continuity, SequenceRequest, check_continuity
from fewstep.robots.control.chunk import Chunk, Float32
from fewstep.robots.control.clocks import Clock, Running, SequenceJob, SequenceResult, VirtualClock, check_clock
from fewstep.robots.control.course import Course
from fewstep.robots.control.history import History, Window
from fewstep.robots.control.language import EpisodePrompt
from fewstep.robots.control.latency import delay_ticks, describe_drop, ticks_between
from fewstep.robots.control.motion import Motion
from fewstep.robots.control.plan_choice import PlanChoice, compile_plans
from fewstep.robots.control.rhythm import Rhythm
from fewstep.robots.control.safety import NO_LIMITS, Safety, check_parts
from fewstep.robots.control.sending import Sending, make_sender
from fewstep.robots.control.statistics import LoopStatistics, Record, Start
from fewstep.robots.control.tick import Action, Source
from fewstep.runtime.arrays import UnusableValue
from fewstep.runtime.kinds.policies import action_shape, policy_of, state_words
from fewstep.runtime.sampling.sampler import Sampler
from fewstep.runtime.text import TextEncoder

Observation = Mapping[str, ArrayLike]
OVERRUN = 0.1  # ticks: a tick that begins later than this is overrun
WARM_UP_CALLS = 20  # measured calls of each plan, after two that are not: a first sequence, and a following one
STALE = "a sequence was dropped: it was observed in an earlier episode, or before the idle action moved the robot"
EPISODE_BITS = 24  # bits of a noise seed that count the calls of an episode


@dataclass(frozen=True)
class _Flight:
    """A running job.

    tick, progress: those of its observation. epoch: the number of its episode. place: the index of its plan. decided:
    the number of actions of the previous sequence that the robot is expected to execute during the call.
    """

    running: Running
    tick: int
    progress: int
    epoch: int
    place: int
    decided: int


class PolicyRunner:
    """The control loop of one robot. Call all methods from one thread.

    Args:
        rhythm: when sequences are sampled, and along which plans.
        safety: the limits of actions, and the action that is sent while there is no sequence.
        continuity: how a sequence continues the previous one, as in `sample_actions`.
        shaping: applied to each prediction of the plans, such as `Clip(-1, 1)`.
        clock: a `WallClock` (the default) or a `VirtualClock`.
        text: the text encoder of the bundle, for language-conditioned policies. `reset` and `warm_up` then take a
            prompt.
    """

    def __init__(
        self,
        sampler: Sampler,
        rhythm: Rhythm,
        safety: Safety = NO_LIMITS,
        *,
        continuity: Continuity | None = None,
        shaping: Shaping | None = None,
        clock: Clock | None = None,
        text: TextEncoder | None = None,
        **former: NoReturn,
    ) -> None:
        check_parts(rhythm, safety, former.keys())
        manifest = sampler.bundle.manifest
        policy = policy_of(manifest)
        self._length = manifest.x_shape[0] - policy.first  # actions of a sequence
        self._every_tick = (rhythm.control or policy.control) == "velocity"
        self._rate, self._deadline = rhythm.rate, 1 / rhythm.rate if rhythm.deadline is None else rhythm.deadline
        execute = policy.actions if rhythm.execute is None else rhythm.execute
        self._execute = check_integer("execute", execute, 1, self._length)
        self._clock, expected = check_clock(clock), rhythm.expected
        if expected is None:
            expected = self._clock.delay if isinstance(self._clock, VirtualClock) else 0.0
        self._sampler = sampler
        self._continuity = check_continuity(continuity, policy)
        self._fade, self._discrete = check_integer("fade", rhythm.fade, 0, self._length), policy.discrete
        self._plans = compile_plans(sampler, rhythm.plans, shaping)
        self._choice = PlanChoice(len(self._plans), self._deadline, arguments.check_seconds("expected", expected))
        self._sender = make_sender(safety, action_shape(manifest), self._rate)
        self._most_held, self._stopped = safety.most_held, safety.stopped
        self._history, self._record = History(sampler), Record(policy.discrete)
        if text is None and (words := state_words(manifest)) is not None:
            what = f"prompts of this policy contain {words.observation!r}, so it needs a text encoder"
            raise UserError(what, "give PolicyRunner(text=load_text_encoder(...))")
        self._language = EpisodePrompt(text)
        self._epoch, self._closed, self._last_now = 0, False, -math.inf
        self._flight: _Flight | None = None
        self._begin_episode(0, None)

    def reset(self, seed: int = 0, conditions: Observation | None = None, prompt: str | None = None) -> None:
        """Begin an episode. The result of a call that still runs for the previous episode is dropped.

        Args:
            seed: seed of the episode's noise, 0 to 2^40 - 1.
            conditions: values of the policy's conditions that are not observed at each tick, such as a task.
            prompt: the task as text, for a runner with a text encoder.

        Raises UserError for a missing condition without a default, and for an unknown condition.
        """
        seed = check_integer("seed", seed, 0, 2 ** (64 - EPISODE_BITS) - 1)
        fixed = self._history.copy_conditions(
            {} if conditions is None else conditions, self._language.condition_names(prompt)
        )
        self._language.begin(prompt)
        self._begin_episode(seed, fixed)

    def _begin_episode(self, seed: int, fixed: Window | None) -> None:
        """Reset the state of the loop. `fixed` are the conditions of the episode; None before `reset`."""
        self._epoch += 1
        self._seed, self._calls = seed, 0
        self._fixed = fixed
        self._motion = Motion(self._every_tick, self._sender.idle)
        self._course = Course(self._motion)
        self._problem: str | None = None
        self._last_source: Source = "waiting"  # the source of the last tick's action
        self._history.clear()
        self._record.end_episode()
        self._record.waited.clear()
        self._tick_began = self._now()

    def warm_up(
        self, observation: Observation, conditions: Observation | None = None, prompt: str | None = None
    ) -> None:
        """Run and measure each plan before the robot moves. Call `reset` afterwards.

        This waits for 22 calls of each plan. The first two are slower, and are not counted.
        """
        self.reset(0, conditions, prompt)
        self._history.add(observation)
        window = self._window()
        for place, plan in enumerate(self._plans):
            actions, _ = self._call(plan, SequenceRequest(window, 0))
            request = SequenceRequest(window, 0, actions, min(1, len(actions)))
            self._call(plan, request)
            self._choice.record_warm_up(place, [self._call(plan, request)[1] for _ in range(WARM_UP_CALLS)])
        self._record.warmed_up = True
        self._begin_episode(0, None)

    def act(self, observation: Observation) -> Action:
        """Take the observation of a tick, and return its action at once."""
        self.observe(observation)
        return self.action()

    def observe(self, observation: Observation) -> None:
        """Run the first half of `act`: take the observation of the next tick, and start to sample a sequence if due.

        An observation without usable values (`History.add` raises `UnusableValue`) is rejected. The current sequence
        continues, and the action reports the problem. A missing name and a wrong shape or type, also of `Safety.pose`,
        raise UserError until the runner or its warm-up has had a usable observation, and are rejected later.
        """
        if self._closed:
            raise UserError("the runner is closed", "make a new one")
        if self._fixed is None:
            self._fixed = self._history.copy_conditions({})  # raises UserError if conditions are required
        self._tick_began = self._now()
        self._motion.begin_tick()
        self._record.counts["ticks"] += 1
        self._collect()
        is_first = not self._history.has_observed
        try:
            self._history.add(observation)
            self._sender.measure_pose(observation, self._motion)
        except UserError as error:
            if is_first and not isinstance(error, UnusableValue):
                raise
            self._record.counts["rejected"] += 1
            self._problem = error.what
            return
        if self._flight is None and self._motion.tick >= self._course.next_call:
            self._begin_sequence()

    def action(self) -> Action:
        """Run the second half of `act`: return the current sequence's action for this tick, within the limits."""
        self._collect()
        problem, self._problem = self._problem, None
        source = self._course.source(self._most_held)
        if source in ("waiting", "stopped"):
            self._record.end_episode()
            self._record.record_wait(source)
            self._epoch += self._sender.idle_moves(self._motion)  # the running call observed where the robot was before
            value = self._sender.send_idle(self._motion)
        else:
            sending = self._send_action(source)
            value, problem = sending.value, problem or sending.limited
        if source == "stopped":
            problem = problem or f"no new sequence arrived for {self._most_held} ticks after the end of the last one"
        self._record.counts[source] += 1
        copied = None if value is None else value.copy()  # the thread reads the sequence
        action = Action(copied, source, self._course.age, problem)
        if source == "stopped" and self._last_source != "stopped" and self._stopped is not None:
            self._stopped(action)
        self._last_source = source
        seconds = self._now() - self._tick_began
        if seconds >= 0:
            self._record.acting.append(seconds)
        return action

    def _send_action(self, source: Source) -> Sending:
        """Return the sequence's action within the limits, and record it."""
        motion, course, record = self._motion, self._course, self._record
        sending = self._sender.send(course.action(), motion, is_held=source == "held")
        record.counts["limited"] += sending.limited is not None
        if not sending.executes:
            record.record_wait(source)
        if sending.value is None:
            record.end_episode()
        elif not sending.executes:
            record.record_action(sending.value, joins=False)
        else:
            if motion.rest_ticks:
                is_bounded = sending.base is not None and self._sender.bounds.limits_change
                where = course.place, course.age
                start = Start(motion.rest_ticks, dict(record.waited), *where, is_bounded, motion.every_tick)
                record.record_start(start, sending.base)
            record.record_action(sending.value, motion.rest_ticks > 0 or motion.progress in course.joins)
            motion.execute()
            record.waited.clear()
        return sending

    def run(
        self,
        observe: Callable[[], Observation],
        send: Callable[[Float32], None],
        seconds: float,
        stop: Callable[[], bool] | None = None,
    ) -> LoopStatistics:
        """Run ticks at the rate for `seconds` (may be inf), or until `stop` returns True.

        Each tick passes the result of `observe` to `act`, and the action, if there is one, to `send`. If a tick begins
        late, all later ticks are delayed by the same time.
        """
        fix = "give 0 or more; inf lasts until `stop` returns True"
        seconds = arguments.check_seconds("seconds", seconds, fix, infinite=True)
        tick = 1 / self._rate
        due = self._now()
        for _ in itertools.count() if math.isinf(seconds) else range(round(seconds * self._rate)):
            if stop is not None and stop():
                break
            now = self._now()
            if not due - now <= (1 + OVERRUN) * tick:  # the clock was set back, or returns NaN
                due = now
            self._clock.wait(due)
            delay = self._now() - due
            if delay > OVERRUN * tick:
                self._record.counts["overrun"] += 1
                due += delay
            action = self.act(observe())
            if action.value is not None:
                send(action.value)
            due += tick
        return self.statistics

    @property
    def statistics(self) -> LoopStatistics:
        """A summary of all ticks so far, without `warm_up`."""
        return self._record.summary()

    def close(self) -> None:
        """Wait for the running call. The runner returns no actions afterwards."""
        if not self._closed:
            self._closed = True
            self._clock.close()

    def __enter__(self) -> "PolicyRunner":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _now(self) -> float:
        """Return the clock's time. A time before the previous one, or NaN, is counted as a jump."""
        now = self._clock.now()
        self._record.counts["jumps"] += not now >= self._last_now
        self._last_now = now
        return now

    def _begin_sequence(self) -> None:
        """Start to sample the action sequence that will begin at this tick, unless the robot first moves to its idle
        action: a call that takes a tick or more would observe where it no longer is."""
        place = self._choice.choose()
        rests = self._course.source(self._most_held) in ("waiting", "stopped")
        if rests and self._delay_ticks(place) and self._sender.idle_moves(self._motion):
            return
        former, decided = self._course.remaining(self._most_held), 0
        if former is not None:
            most = min(len(former), self._length - self._execute)  # `execute` actions follow the decided ones
            decided = min(self._delay_ticks(place), most)
        plan = self._plans[place]
        request = SequenceRequest(self._window(), (self._seed << EPISODE_BITS) | self._calls, former, decided)
        self._calls += 1
        self._course.delay = decided
        self._record.plans[plan.name] += 1
        running = self._clock.start(self._make_job(plan, request))
        self._flight = _Flight(running, self._motion.tick, self._motion.progress, self._epoch, place, decided)

    def _window(self) -> Window:
        """Return the network's inputs at this tick."""
        return self._language.add_to_window({**self._history.window(), **(self._fixed or {})})

    def _collect(self) -> None:
        """Take over a finished sequence, unless it belongs to another episode, failed, or has no action left."""
        if self._flight is None or not self._flight.running.done():
            return
        flight, self._flight = self._flight, None
        result, counts = flight.running.result(), self._record.counts
        self._measure(flight.place, result)
        if flight.epoch != self._epoch:
            counts["dropped"] += 1
            self._problem = self._problem or STALE
        elif result.actions is None:
            counts["failed"] += 1
            self._problem = result.failure
        elif self._motion.progress - flight.progress >= (horizon := len(result.actions)):
            counts["dropped"] += 1
            self._problem = describe_drop(self._motion.tick - flight.tick, horizon, self._rate)
        else:
            self._take_over(flight, Chunk(result.actions, flight.progress))

    def _take_over(self, flight: _Flight, chunk: Chunk) -> None:
        """Execute a new sequence from now on."""
        if self._last_source == "stopped":
            self._course.chunk = None  # a robot that stopped continues nothing
        delay = self._delay_ticks(flight.place)
        period = ticks_between(self._execute, delay)
        if delay >= self._length and not self._every_tick:
            # the robot executes the whole sequence during a call: the next one must begin late enough to extend it
            period = self._motion.tick + chunk.origin + self._execute - self._motion.progress - flight.tick
        shared = 0 if self._continuity == "none" else flight.decided
        self._course.take_over(chunk, flight.tick, period, shared, self._fade, self._discrete)

    def _delay_ticks(self, place: int) -> int:
        """Return the ticks that pass while a plan is sampled."""
        return delay_ticks(self._choice.delay(place), self._rate)

    def _measure(self, place: int, result: SequenceResult) -> None:
        """Record a finished call. Its seconds influence the choice of later plans."""
        counts = self._record.counts
        if result.actions is None:
            self._choice.record_failure(place)
            return
        if not (math.isfinite(result.seconds) and result.seconds >= 0):
            counts["jumps"] += 1
            return
        self._choice.record_call(place, result.seconds)
        self._record.sampling.append(result.seconds)
        self._record.steps[result.steps] += 1
        counts["missed"] += result.seconds > self._deadline
        counts["cut"] += result.steps < len(self._plans[place].steps)

    def _make_job(self, plan: Plan, request: SequenceRequest) -> SequenceJob:
        return SequenceJob(self._sampler, plan, request, self._continuity, self._deadline)

    def _call(self, plan: Plan, request: SequenceRequest) -> tuple[Float32, float]:
        """Make a call without a deadline, wait for it, and return its actions [n, ...] in the robot's units and its
        duration in seconds."""
        self._sampler.forget()  # in use, the pictures change with each call; the warm-up repeats one observation
        job = dataclasses.replace(self._make_job(plan, request), deadline=math.inf)
        result = self._clock.start(job).result()
        if result.actions is None:
            raise UserError(f"plan {plan.name!r} sampled no sequence: {result.failure}", "try it with `sample_actions`")
        return result.actions, result.seconds
