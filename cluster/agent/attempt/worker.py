"""The agent of every node but the first: waits for the leader's command, carries it out, reports, and waits again."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Sequence
from dataclasses import replace
from datetime import datetime
from pathlib import Path

from cluster.agent.attempt.runner import facts, on_this_node, training_context
from cluster.agent.health.checks import run_checks
from cluster.agent.monitor.monitor import Oversight, TrainingContext
from cluster.agent.monitor.phase import TERM_TO_KILL_SECONDS, Phase, run_phase
from cluster.agent.multinode.leader import beat_seconds
from cluster.agent.multinode.leader_monitor import LeaderMonitor
from cluster.agent.multinode.messages import CHECK, HANG, LEAVE, TRAIN, Command, Report, write_report
from cluster.agent.process.cgroup import oom_kills
from cluster.agent.process.children import Children
from cluster.agent.process.launch import phase_command, phase_environment
from cluster.agent.process.node import Node
from cluster.agent.process.stop_request import StopRequests
from cluster.agent.verdict.outcome import PhaseEnd, describe_exit
from cluster.liveness import HeartbeatWriter
from cluster.run.goodput import mean_time_between_failures_seconds
from rundir.attempts import read_attempts
from rundir.errors import TuneyardError
from rundir.outcome import AGENT_FAILED, RESTART_ME
from rundir.paths import RunPaths, rank_log_name
from rundir.plan import LaunchSpec, read_launch

_POLL_SECONDS = 0.2
_SHUT_DOWN = 0
_SAVING_SECONDS = 5.0


def work(run_dir: Path, node: Node, stop_requests: StopRequests) -> int:
    """Carries out the leader's commands until it is time to exit; gives the exit code, which nobody needs."""
    worker = Worker(run_dir, node, read_launch(run_dir), stop_requests)
    with Children(worker.say) as children:
        while True:
            command = worker.next_command()
            if isinstance(command, int):
                return command
            worker.carry_out(command, children)


class Worker:
    """One worker, from its first command to its exit."""

    def __init__(self, run_dir: Path, node: Node, launch: LaunchSpec, stop_requests: StopRequests) -> None:
        self.leader = LeaderMonitor(run_dir, node.generation, launch)
        self._run_dir, self._node, self._launch, self._wishes = run_dir, node, launch, stop_requests
        self._beat_seconds = beat_seconds(launch.silence_seconds)
        self._reports: HeartbeatWriter[Report] | None = None
        self._done_sequence_number = 0
        stop_requests.say = self.say

    def say(self, message: str) -> None:
        """One line on stderr, and in a log of this node's own once there is an attempt."""
        line = f"{datetime.now().astimezone().isoformat(sep=' ', timespec='milliseconds')} {message}\n"
        try:
            if self._reports is not None:
                folder = RunPaths(self._run_dir).attempt_logs(self._reports.sent.attempt)
                with open(folder / f"agent-node-{self._node.rank:02d}.log", "a", encoding="utf-8") as file:
                    file.write(line)
            sys.stderr.write(f"{self._node.name}: {line}")
        except OSError:
            return  # a full disk, or a terminal that is gone

    def next_command(self) -> Command | int:
        """Waits for the next command that is work; an exit code when it is time to leave."""
        while True:
            command = self.leader.newest_command()
            if command is not None and command.name == LEAVE:
                return _SHUT_DOWN
            is_new = command is not None and command.sequence_number > self._done_sequence_number
            if command is not None and is_new and command.name in (CHECK, TRAIN):
                return command
            if self.leader.gone:
                self.say(f"{self.leader.gone}: leaving")
                return AGENT_FAILED
            if self._out_of_time():
                return RESTART_ME
            self.beat()
            time.sleep(_POLL_SECONDS)

    def carry_out(self, command: Command, children: Children) -> None:
        """Does what is asked, and reports it."""
        self._done_sequence_number = command.sequence_number
        reports = self._begin_report(command)
        try:
            if command.name == CHECK:
                done = replace(reports.sent, done=True, health=tuple(run_checks(self._run_dir, self._launch)))
            else:
                end = self._train(command, children)
                done = replace(reports.sent, done=True, end=end, ended=time.time())
        except TuneyardError as error:  # a plan that cannot be read: the leader says why
            self.say(str(error))
            return
        reports.try_to_send(done, time.monotonic())

    def beat(self) -> None:
        """Shows that this node lives."""
        if self._reports is not None:
            self._reports.beat(time.monotonic())

    def _begin_report(self, command: Command) -> HeartbeatWriter[Report]:
        """Answers the command at once; what came of it is reported when it is done."""
        number, node = command.sequence_number, self._node
        report = Report(command.generation, node.rank, node.name, command.attempt, number, command.name)
        self._reports = HeartbeatWriter(
            report, lambda sent: write_report(self._run_dir, sent), lambda _: self._beat_seconds, self.say
        )
        self._reports.try_to_send(report, time.monotonic())
        return self._reports

    def _train(self, command: Command, children: Children) -> PhaseEnd:
        kills_before, phase, context = oom_kills(), *self._phase(command)
        self.say(f"train: started as node {self._node.rank}, meeting at {command.endpoint}")
        end = run_phase(phase, children, self._wishes)
        self.say(f"train: {describe_exit(end.exit_code)} after {end.seconds:.1f} s")
        logs = [context.log_dir / rank_log_name(rank) for rank in context.ranks]
        found = on_this_node([*logs, phase.log_path], context.node, self._launch, kills_before, end.ended_by_agent)
        return replace(end, proofs=(*found, *end.proofs))

    def _phase(self, command: Command) -> tuple[Phase, TrainingContext]:
        launch, attempt = self._launch, command.attempt
        log_dir = RunPaths(self._run_dir).attempt_logs(attempt)
        log = log_dir / f"train-node-{self._node.rank:02d}.log"
        context = training_context(launch, self._run_dir, attempt, log_dir, log, self._node, self.say)
        mtbf_seconds = mean_time_between_failures_seconds(read_attempts(self._run_dir)[:-1])
        environment = phase_environment(launch, attempt, log_dir, os.environ) | facts(mtbf_seconds)
        line: Sequence[str] = phase_command(launch, TRAIN, self._run_dir, attempt, self._node.rank, command.endpoint)
        oversight = WorkerOversight(context, self.leader, command.sequence_number)
        return Phase(TRAIN, line, environment, log, launch.grace_seconds, oversight, self.beat), context

    def _out_of_time(self) -> bool:
        """Whether we were told to leave so long ago that the leader must have gone without a command."""
        self._wishes.poll()
        since = self._wishes.signalled_at
        return since is not None and time.monotonic() > since + self._launch.grace_seconds + TERM_TO_KILL_SECONDS


class WorkerOversight(Oversight):
    """Ends training here when the leader commands it, or is gone."""

    def __init__(self, context: TrainingContext, leader: LeaderMonitor, sequence_number: int) -> None:
        super().__init__(context)
        self._leader = leader
        self._sequence_number = sequence_number
        self._asked_since: float | None = None

    def judge(self, children: Children, now: float, stopping: bool) -> None:
        """Looks at the newest command. Whether training hangs is the leader's to decide."""
        command = self._leader.newest_command()
        if self._leader.gone:
            self.context.say(f"{self._leader.gone}: ending training")
            self.end(children)
        elif command is not None and command.sequence_number > self._sequence_number:
            self._asked_since = self._asked_since or now
            if command.name == HANG:
                self.context.say("training stands still, says the leader: taking stacks")
                self.investigate()
            elif stopping and now - self._asked_since < _SAVING_SECONDS:
                return  # our ranks may be the last to have saved
            self.end(children)
