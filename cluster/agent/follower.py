"""The agent of every node but the first: waits for the head's word, is checked, trains, reports, and waits again."""

from __future__ import annotations

import os
import sys
import time
from dataclasses import replace
from datetime import datetime
from pathlib import Path

from cluster.agent.cgroup import oom_kills
from cluster.agent.children import Children
from cluster.agent.crew import beat_seconds
from cluster.agent.health import run_checks
from cluster.agent.invitation import (
    CHECK,
    HANG,
    LEAVE,
    TRAIN,
    Invitation,
    Report,
    Silence,
    read_invitation,
    write_report,
)
from cluster.agent.launch import phase_command, phase_environment
from cluster.agent.life import facts, make_scene, on_this_node
from cluster.agent.node import Node
from cluster.agent.outcome import PhaseEnd, describe_exit
from cluster.agent.oversight import Oversight, Scene
from cluster.agent.phases import TERM_TO_KILL_SECONDS, Phase, run_phase
from cluster.agent.stopping import StopWishes
from cluster.goodput import mean_time_between_failures_seconds
from rundir.attempts import read_attempts
from rundir.errors import TuneyardError
from rundir.outcome import AGENT_FAILED, RESTART_ME
from rundir.paths import RunPaths, rank_log_name
from rundir.plan import LaunchSpec, read_launch

_POLL_SECONDS = 0.2
_DISMISSED = 0
_SAVING_SECONDS = 5.0


def follow(run_dir: Path, node: Node, wishes: StopWishes) -> int:
    """The follower's whole life; returns its exit code, which nobody needs."""
    follower = Follower(run_dir, node, read_launch(run_dir), wishes)
    with Children(follower.say) as children:
        while True:
            invitation = follower.next_task()
            if isinstance(invitation, int):
                return invitation
            follower.carry_out(invitation, children)


class Head:
    """The head as its followers see it: through the invitation that it renews all the time."""

    def __init__(self, run_dir: Path, generation: str, launch: LaunchSpec) -> None:
        self.gone = ""
        self._run_dir = run_dir
        self._generation = generation
        self._silence = Silence(launch.silence_seconds)
        self._joining = Silence(max(launch.join_seconds, launch.silence_seconds))

    def says(self) -> Invitation | None:
        """The newest invitation; `gone` says so when there has been no sign of life for too long."""
        invitation, now = read_invitation(self._run_dir, self._generation), time.monotonic()
        silence = self._joining if invitation is None else self._silence
        if silence.lasts_too_long(invitation and (invitation.serial, invitation.beat), now):
            self.gone = f"no sign of the head for {silence.limit_seconds:.0f} s"
        return invitation


class Follower:
    """One follower between its first and its last word."""

    def __init__(self, run_dir: Path, node: Node, launch: LaunchSpec, wishes: StopWishes) -> None:
        self.head = Head(run_dir, node.generation, launch)
        self._run_dir, self._node, self._launch, self._wishes = run_dir, node, launch, wishes
        self._beat_seconds = beat_seconds(launch.silence_seconds)
        self._report: Report | None = None
        self._next_beat = 0.0
        self._done_serial = 0
        wishes.say = self.say

    def say(self, words: str) -> None:
        """One line on stderr, and in a log of this node's own once there is an attempt."""
        line = f"{datetime.now().astimezone().isoformat(sep=' ', timespec='milliseconds')} {words}\n"
        try:
            if self._report is not None:
                log = (
                    RunPaths(self._run_dir).attempt_logs(self._report.attempt) / f"agent-node-{self._node.rank:02d}.log"
                )
                with open(log, "a", encoding="utf-8") as file:
                    file.write(line)
            sys.stderr.write(f"{self._node.name}: {line}")
        except OSError:
            return  # a full disk, or a terminal that is gone

    def next_task(self) -> Invitation | int:
        """Waits for the next thing to do; an exit code when it is time to leave."""
        while True:
            invitation = self.head.says()
            if invitation is not None and invitation.word == LEAVE:
                return _DISMISSED
            if invitation is not None and invitation.word in (CHECK, TRAIN) and invitation.serial > self._done_serial:
                return invitation
            if self.head.gone:
                self.say(f"{self.head.gone}: leaving")
                return AGENT_FAILED
            if self._out_of_time():
                return RESTART_ME
            self.beat()
            time.sleep(_POLL_SECONDS)

    def carry_out(self, invitation: Invitation, children: Children) -> None:
        """Does what is asked, and reports it."""
        self._done_serial = invitation.serial
        self._begin(invitation)
        try:
            if invitation.word == CHECK:
                self._finish(health=tuple(run_checks(self._run_dir, self._launch)))
            else:
                self._finish(end=self._train(invitation, children), ended=time.time())
        except TuneyardError as error:  # a plan that cannot be read: the head says why
            self.say(str(error))

    def beat(self) -> None:
        """Shows that this node lives."""
        if self._report is not None and time.monotonic() >= self._next_beat:
            self._publish(self._report.renewed())

    def _begin(self, invitation: Invitation) -> None:
        node, given = self._node, invitation
        self._publish(Report(given.generation, node.rank, node.name, given.attempt, given.serial, given.word))

    def _finish(self, **found: object) -> None:
        assert self._report is not None
        self._publish(replace(self._report, done=True, **found))  # type: ignore[arg-type]

    def _publish(self, report: Report) -> None:
        self._report = report
        self._next_beat = time.monotonic() + self._beat_seconds
        try:
            write_report(self._run_dir, report)
        except TuneyardError as error:  # a full disk: it may have room for the next one
            self.say(str(error))

    def _train(self, invitation: Invitation, children: Children) -> PhaseEnd:
        kills_before, phase, scene = oom_kills(), *self._phase(invitation)
        self.say(f"train: started as node {self._node.rank}, meeting at {invitation.endpoint}")
        end = run_phase(phase, children, self._wishes)
        self.say(f"train: {describe_exit(end.exit_code)} after {end.seconds:.1f} s")
        logs = [scene.log_dir / rank_log_name(rank) for rank in scene.ranks]
        found = on_this_node([*logs, phase.log_path], scene.node, self._launch, kills_before, end.ended_by_agent)
        return replace(end, proofs=(*found, *end.proofs))

    def _phase(self, invitation: Invitation) -> tuple[Phase, Scene]:
        launch, attempt = self._launch, invitation.attempt
        log_dir = RunPaths(self._run_dir).attempt_logs(attempt)
        log = log_dir / f"train-node-{self._node.rank:02d}.log"
        scene = make_scene(launch, self._run_dir, attempt, log_dir, log, self._node, self.say)
        mtbf_seconds = mean_time_between_failures_seconds(read_attempts(self._run_dir)[:-1])
        environment = phase_environment(launch, attempt, log_dir, os.environ) | facts(mtbf_seconds)
        command = phase_command(launch, TRAIN, self._run_dir, attempt, self._node.rank, invitation.endpoint)
        oversight = FollowerOversight(scene, self.head, invitation.serial)
        return Phase(TRAIN, command, environment, log, launch.grace_seconds, oversight, self.beat), scene

    def _out_of_time(self) -> bool:
        """Whether we were told to leave so long ago that the head must have gone without a word."""
        self._wishes.poll()
        since = self._wishes.signalled_at
        return since is not None and time.monotonic() > since + self._launch.grace_seconds + TERM_TO_KILL_SECONDS


class FollowerOversight(Oversight):
    """Ends training here when the head says so, or is gone."""

    def __init__(self, scene: Scene, head: Head, serial: int) -> None:
        super().__init__(scene)
        self._head = head
        self._serial = serial
        self._asked_since: float | None = None

    def judge(self, children: Children, now: float, stopping: bool) -> None:
        """Looks at what the head wants now. The decision about a hang is its own."""
        invitation = self._head.says()
        if self._head.gone:
            self.scene.say(f"{self._head.gone}: ending training")
            self.end(children)
        elif invitation is not None and invitation.serial > self._serial:
            self._asked_since = self._asked_since or now
            if invitation.word == HANG:
                self.scene.say("training stands still, says the head: taking stacks")
                self.investigate()
            elif stopping and now - self._asked_since < _SAVING_SECONDS:
                return  # our ranks may be the last to have saved
            self.end(children)
