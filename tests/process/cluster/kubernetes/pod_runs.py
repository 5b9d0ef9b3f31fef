"""Pods of a run as local processes: the real wrapper, real agents, a stand-in for the trainer."""

import json
import os
import signal
import subprocess
import sys
from itertools import count
from pathlib import Path

from agent_runs import PATIENCE_SECONDS, Run, until

from cluster.agent.process.node import free_port
from cluster.kubernetes.pod.membership.heartbeat import read_heartbeat
from cluster.kubernetes.pod.membership.rendezvous import read_rendezvous
from tests.support.documents import read_attempts, read_progress

SUBMITTED = "1795000000.5"
LONG_SECONDS = 3 * PATIENCE_SECONDS


class Pod:
    """One pod: its wrapper is a child of the test, its words are in a file of its own."""

    def __init__(self, process: subprocess.Popen[bytes], uid: str, log: Path, termination_log: Path) -> None:
        self.process, self.uid, self._log, self._termination_log = process, uid, log, termination_log

    def ends_with(self) -> int:
        return self.process.wait(LONG_SECONDS)

    def terminate(self) -> None:
        self.process.send_signal(signal.SIGTERM)

    def die(self) -> None:
        """As if the whole container were gone: the kernel ends what is below its first process."""
        self.process.kill()
        self.process.wait()

    @property
    def words(self) -> str:
        return self._log.read_text()

    def says(self, words: str) -> None:
        until(lambda: words in self.words, f"{self.uid} to say {words!r}", LONG_SECONDS)

    @property
    def termination_message(self) -> dict:
        return json.loads(self._termination_log.read_text())


class Pods:
    """Starts pods as a Job would."""

    def __init__(self, run: Run) -> None:
        self.run = run
        self.all: list[Pod] = []
        self._port = str(free_port(27000 + os.getpid() % 2000))
        self._numbers = count(1)

    def start(self, index: int, of: int = 2, node: str = "", uid: str = "", **more: str) -> Pod:
        uid = uid or f"uid-{index}-{next(self._numbers)}"
        termination_log = self.run.dir / f"termination-{uid}"
        termination_log.touch()
        told = {
            "TUNEYARD_SCHEDULER": "kubernetes",
            "TUNEYARD_SUBMITTED": SUBMITTED,
            "TUNEYARD_NODES_COUNT": str(of),
            "TUNEYARD_POD_INDEX": str(index),
            "TUNEYARD_POD_UID": uid,
            "TUNEYARD_POD_NAME": f"support-{index}-{uid}",
            "TUNEYARD_NODE_NAME": node or f"node-{index}",
            "TUNEYARD_HEAD": "nowhere.invalid",
            "TUNEYARD_POD_IP": "127.0.0.1",
            "TUNEYARD_PORT": self._port,
            "TUNEYARD_TERMINATION_LOG": str(termination_log),
        }
        log = self.run.dir / f"spoken-{uid}"
        with open(log, "ab") as spoken:
            command = [sys.executable, "-m", "cluster.kubernetes.pod", str(self.run.dir)]
            process = subprocess.Popen(command, env={**os.environ, **told, **more}, stdout=spoken, stderr=spoken)
        self.run.agents.append(process)
        self.all.append(Pod(process, uid, log, termination_log))
        return self.all[-1]

    def replace(self, pod: Pod, index: int, of: int = 2, **more: str) -> Pod:
        """What the Job's controller does when a pod has left with 75 or was disrupted: the same index, a new pod."""
        assert pod.process.poll() is not None
        return self.start(index, of, **more)

    def trained(self, attempt: int, steps: int = 5) -> None:
        """Waits until an attempt has made so many steps beyond its first one."""

        def made() -> bool:
            progress = read_progress(self.run.dir) or {}
            return progress.get("attempt", -1) >= attempt and progress.get("step", 0) >= steps

        until(made, f"{steps} steps of attempt {attempt}: {[pod.words for pod in self.all]}", LONG_SECONDS)

    def outcomes(self) -> list[str]:
        return [record["outcome"] for record in read_attempts(self.run.dir)]

    def shows(self, index: int, state: str) -> None:
        def shown() -> bool:
            seen = read_heartbeat(self.run.dir, index)
            return seen is not None and seen.state == state

        until(shown, f"pod {index} to be {state}")

    def generation(self) -> str:
        gathering = read_rendezvous(self.run.dir)
        return gathering.generation if gathering else ""
