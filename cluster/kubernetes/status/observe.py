"""Where a run on Kubernetes is: what the API says about its objects, and what its run directory says."""

from __future__ import annotations

import contextlib
import json
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from cluster.contract import Status
from cluster.kubernetes.client.api import JOBSET, Api
from cluster.kubernetes.client.errors import KubernetesError
from cluster.kubernetes.names import COMPONENT_LABEL, INSTANCE_LABEL, PREPARE, TRAINER
from cluster.kubernetes.status.objects import (
    Condition,
    Pod,
    Workload,
    current_pods,
    event_of,
    is_preparing,
    pod_of,
    workload_of,
)
from cluster.kubernetes.status.pending_reason import ClusterFacts, explain, lost_pods, num_present
from cluster.kubernetes.submitted import Submitted
from rundir.attempts import Action, AttemptRecord, attempt_record, newest_attempt, put_attempt, read_attempts
from rundir.outcome import Outcome
from rundir.progress import read_progress
from rundir.states import RunState

_KUEUE = ("kueue.x-k8s.io", ("v1beta2", "v1beta1"))
_OUTCOME_OF_CODE = {"2": Outcome.FATAL, "3": Outcome.CRASHED, "4": Outcome.STOPPED}


@dataclass(frozen=True)
class RunSnapshot:
    """A run's workload and pods, as they were a moment ago."""

    workload: Workload | None
    pods: tuple[Pod, ...] = ()
    preparing: Workload | None = None
    """The Job that tokenises before that, where there is one, and its pods."""
    preparing_pods: tuple[Pod, ...] = ()

    @property
    def waits_for_data(self) -> bool:
        """Whether the workload is suspended until the data are tokenised, or for ever if they cannot be."""
        is_suspended = self.workload is not None and self.workload.is_suspended
        return is_suspended and self.preparing is not None and not self.preparing.succeeded

    @property
    def running(self) -> list[Pod]:
        """Pods in which something can be executed, the head first."""
        pods = self.preparing_pods if self.waits_for_data else self.pods
        return [pod for pod in current_pods(pods) if pod.is_running]

    @property
    def is_over(self) -> bool:
        """Whether nothing of the run will live again by itself."""
        return not self.running if self.workload is None else self.end is not None

    @property
    def end(self) -> Condition | None:
        """How it ended: with its workload, or before that could begin; None while it has not."""
        decides = self.preparing if self.waits_for_data else self.workload
        return decides.end if decides is not None else None

    @property
    def every_pod(self) -> tuple[Pod, ...]:
        """All pods of the run, whatever they do."""
        return (*self.pods, *self.preparing_pods)

    def of_head(self) -> RunSnapshot:
        """The same with pod 0 alone: a run that has trained needs no other."""
        return replace(self, pods=tuple(pod for pod in self.pods if pod.index == 0))


def selector(release: str) -> str:
    """The labels of the run's own pods: not TensorBoard's, not a test's."""
    return f"{INSTANCE_LABEL}={release},{COMPONENT_LABEL} in ({TRAINER},{PREPARE})"


def snapshot_of(api: Api, given: Submitted) -> RunSnapshot:
    """Asks the API."""
    found, preparing = _workloads(api, given)
    every = [pod_of(one) for one in api.listed("pod", selector(given.release))]
    return RunSnapshot(
        workload=None if found is None else workload_of(found),
        pods=tuple(pod for pod in every if not pod.is_preparing),
        preparing=None if preparing is None else workload_of(preparing),
        preparing_pods=tuple(pod for pod in every if pod.is_preparing),
    )


def workload_json(api: Api, given: Submitted) -> dict[str, Any] | None:
    """The run's Job or JobSet, whose name only the chart knows; None when it is not there."""
    return _workloads(api, given)[0]


def _workloads(api: Api, given: Submitted) -> tuple[dict[str, Any] | None, dict[str, Any] | None]:
    """The run's Job or JobSet, and the Job that tokenises for it."""
    jobs = [{**one, "apiVersion": "batch/v1", "kind": "Job"} for one in api.listed("job", selector(given.release))]
    preparing = [one for one in jobs if is_preparing(one)]
    own = [one for one in jobs if not is_preparing(one)]
    if given.workload == "jobset":
        sets = api.listed_custom(JOBSET, "jobsets", selector(given.release)) or []
        own = [{**one, "apiVersion": "/".join(JOBSET), "kind": "JobSet"} for one in sets]
    return _newest_made(own), _newest_made(preparing)


def _newest_made(objects: list[dict[str, Any]]) -> dict[str, Any] | None:
    return max(objects, key=lambda one: str(one["metadata"].get("creationTimestamp", "")), default=None)


def waiting(api: Api, given: Submitted, snapshot: RunSnapshot, wanted: int) -> str:
    """Why the run's pods are not all there, in words."""
    events = None
    with contextlib.suppress(KubernetesError):
        every = [event_of(one) for one in api.listed("event")]
        events = [one for one in every if one.about.startswith(given.release)]
    first = snapshot.waits_for_data
    workload, pods = (snapshot.preparing, snapshot.preparing_pods) if first else (snapshot.workload, snapshot.pods)
    admission = _admission(api, workload.name if workload else given.release)
    found = explain(ClusterFacts(1 if first else wanted, workload, pods, events, admission))
    return f"{given.release}{' waits for its data' if first else ''}: {found.words}"


def preparing(run_dir: Path, snapshot: RunSnapshot, given: Submitted) -> Status | None:
    """The status of a run whose data are being tokenised; None when the pod that does it does not run."""
    if not snapshot.running:
        return None
    record, pod = newest_attempt(run_dir), snapshot.running[0]
    words = f"{given.release} waits for its data: pod {pod.name} tokenises them on {pod.node}"
    return Status(RunState.RUNNING, words, record.number if record else None)


def is_trained(run_dir: Path, given: Submitted) -> bool:
    """Whether this submission has trained: from then on pod 0 is alone."""
    return any(record.trained and is_of(record, given) for record in read_attempts(run_dir))


def living(run_dir: Path, snapshot: RunSnapshot, wanted: int, given: Submitted) -> Status | None:
    """The status of a run whose workload lives; None when its pods are not all at their posts."""
    record = newest_attempt(run_dir)
    number = record.number if record else None
    is_open = record is not None and record.is_open and is_of(record, given)
    there = num_present(ClusterFacts(wanted, pods=snapshot.pods))
    if is_open and record is not None and snapshot.running:
        progress = read_progress(run_dir).of_attempt(record.number)
        words = progress.state if progress else "no sign of the trainer yet"
        words = "trained; pod 0 exports and evaluates alone" if record.trained else words
        missed = lost_pods(ClusterFacts(wanted, pods=snapshot.pods))  # what is left of the run may not have noticed yet
        return Status(RunState.RUNNING, f"{words}; {missed.words}" if missed else words, number)
    if there < wanted:
        return None
    return Status(RunState.RUNNING, _between(record, given), number)


def ended(run_dir: Path, snapshot: RunSnapshot, given: Submitted) -> Status:
    """The status of a run that is over: by its record, else by what became of its workload."""
    record = newest_attempt(run_dir)
    number = record.number if record else None
    end = snapshot.end
    if record is not None and is_of(record, given) and record.outcome:
        return Status(RunState.ENDED, record.cause or "", number, record.outcome)
    if end is None:
        return Status(RunState.ENDED, f"{given.release} is gone, without a word", number, Outcome.STOPPED)
    words = f"{given.release} ended {end.type} before its agent wrote an outcome"
    told = f": {end.reason}: {end.message}" if end.message else ""
    said = [one.message for pod in snapshot.preparing_pods for one in pod.containers if one.exit_code and one.message]
    last = f": {said[-1].splitlines()[-1]}" if snapshot.waits_for_data and said else ""
    return Status(RunState.ENDED, words + told + last, number, _outcome_of(end))


def correct(run_dir: Path, snapshot: RunSnapshot, given: Submitted) -> None:
    """Puts into the record what only the cluster knows. A pod that has to go is not told why, and says preempted."""
    record = newest_attempt(run_dir)
    if record is None or not is_of(record, given) or record.outcome is not Outcome.PREEMPTED:
        return
    end = snapshot.end
    if snapshot.workload is None:
        outcome, why, action = Outcome.STOPPED, f"{given.release} was removed", Action.STOP
    elif end is not None and _is_deadline(end) and snapshot.waits_for_data:
        why = "its walltime has passed before the data were tokenised: raise `prepare.walltime` in the site profile"
        outcome, action = Outcome.WALLTIME, Action.RESTART
    elif end is not None and _is_deadline(end):
        outcome, why, action = Outcome.WALLTIME, f"the deadline of {given.release} has passed", Action.RESTART
    else:
        return
    cause = f"{why}; {record.cause or ''}".rstrip("; ")
    decision = record.decision.changed(action=action, reason=why)
    put_attempt(run_dir, record.changed(outcome=outcome, cause=cause, decision=decision))


def termination_message(snapshot: RunSnapshot) -> AttemptRecord | None:
    """The newest record in short, as the head's pod left it for Kubernetes to keep."""
    heads = [pod for pod in snapshot.every_pod if pod.index == 0]
    for container in (one for pod in heads for one in pod.containers if one.name == pod.container and one.message):
        try:
            found = json.loads(container.message)
        except ValueError:
            continue
        if (record := attempt_record(found)) is not None:
            return record
    return None


def is_of(record: AttemptRecord, given: Submitted) -> bool:
    """Whether an attempt belongs to the last submission."""
    return record.is_of_submission(given.submitted)


def as_last_record(run_dir: Path, found: AttemptRecord, given: Submitted) -> None:
    """Puts a record in short in place of the one that is here, which an end that came quickly left open."""
    here_now = [one.to_json() for one in read_attempts(run_dir) if one.number == found.number]
    known = {"submitted": given.submitted} | (here_now[0] if here_now else {})
    put_attempt(run_dir, AttemptRecord.from_json(known | found.to_json()))


def _between(record: AttemptRecord | None, given: Submitted) -> str:
    if record is None or not is_of(record, given) or not record.decision.restarts:
        return "all pods are there; the agents are starting or leaving"
    return f"the pods gather for attempt {record.number + 1} ({record.decision.reason})"


def _outcome_of(end: Condition) -> Outcome:
    if end.type in ("Complete", "Completed"):
        return Outcome.FINISHED
    if _is_deadline(end):
        return Outcome.WALLTIME
    code = next((code for code in _OUTCOME_OF_CODE if f"exit code {code}" in end.message), "")
    return _OUTCOME_OF_CODE.get(code, Outcome.CRASHED)


def _is_deadline(end: Condition) -> bool:
    return "DeadlineExceeded" in (end.reason, *end.message.split())


def _admission(api: Api, owner: str) -> Workload | None:
    """Kueue's Workload of a Job or JobSet, where Kueue is installed and may be asked."""
    group, versions = _KUEUE
    with contextlib.suppress(KubernetesError):
        served = next((one for one in versions if api.serves((group, one), "workloads")), "")
        found = (api.listed_custom((group, served), "workloads") or []) if served else []
        for one in found:
            owners = (one.get("metadata") or {}).get("ownerReferences") or ()
            if any(str(given.get("name", "")) == owner for given in owners):
                return replace(workload_of(one), kind="Workload")
    return None
