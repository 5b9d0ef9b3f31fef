"""The Kubernetes backend: a release per run; tells from the API and the run directory where the run is."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from cluster.contract import Backend, Handle, Status
from cluster.errors import ClusterError
from cluster.kubernetes.client.api import Api
from cluster.kubernetes.names import TRAINER
from cluster.kubernetes.status import objects, observe
from cluster.kubernetes.status.observe import RunSnapshot
from cluster.kubernetes.submit import release
from cluster.kubernetes.submit.values import AGENT_SECONDS, site_of
from cluster.kubernetes.submitted import Submitted, read_submitted, write_submitted
from cluster.kubernetes.sync import download, mirror, reader_pod
from cluster.run import lock
from cluster.run.logs import read_logs
from rundir.attempts import newest_attempt, read_attempts
from rundir.errors import TuneyardError
from rundir.outcome import StopReason
from rundir.plan import LaunchSpec, Plan, read_plan
from rundir.states import RunState
from rundir.stop import stop_request, write_stop

_FRESH_SECONDS = 1.5
"""How long an answer of the API is good enough for `status`."""
_CLOSING_SECONDS = 45.0
JOB = "job.yaml"
_MOST_ANSWERS = 64
_WATCH_SECONDS = 3600.0


@dataclass
class _CachedStatus:
    """What was found out about a run a moment ago."""

    asked: float
    status: Status


@dataclass
class _SubmittedRun:
    """A run on its cluster."""

    run_dir: Path
    given: Submitted
    site: Mapping[str, Any]
    api: Api
    launch: LaunchSpec
    ranks: Sequence[int] = (0,)
    seen: _CachedStatus | None = field(default=None)


class KubernetesBackend(Backend):
    """Runs as Helm releases. Nothing is kept but the run directory and what the cluster knows."""

    name = "kubernetes"
    renders = "manifests"

    def __init__(self) -> None:
        self._places: dict[Path, _SubmittedRun] = {}

    def require(self, launch: LaunchSpec, runs_dir: Path) -> list[str]:
        """Helm is here, and the API answers."""
        site = site_of(Plan(launch=launch))
        release.helm_of(site, "").version()
        release.api_of(site).version()
        release.require_place_to_prepare(site, runs_dir)
        return []

    def rendered(self, run_dir: Path, plan: Plan, job_text: str) -> str:
        """The manifests; asks the cluster only whether it has JobSet, and does without an answer."""
        site = site_of(plan)
        api = Api(str(site.get("context", "")), str(site.get("namespace", "")), retry_seconds=())
        try:
            given = release.submitted_now(run_dir, plan, api, 0.0)
        except ClusterError:
            plain = plan.changed(launch=plan.launch.changed(kubernetes={**site, "jobset": "never"}))
            given = release.submitted_now(run_dir, plain, api, 0.0)
        helm = release.helm_of(site, given.namespace)
        first = release.prepares_first(run_dir, site)
        return helm.template(given.release, release.values_text(plan, given, job_text, prepares=first))

    def submit(self, run_dir: Path) -> Handle:
        """Makes the run's release."""
        run_dir = run_dir.resolve()
        plan = read_plan(run_dir)
        site = site_of(plan)
        api = release.api_of(site)
        self._clear_away(run_dir)
        given = release.submitted_now(run_dir, plan, api, time.time())
        helm = release.helm_of(site, given.namespace)
        job_text = (run_dir / JOB).read_text(encoding="utf-8")
        first = release.prepares_first(run_dir, site)
        values = release.values_text(plan, given, job_text, read_attempts(run_dir), prepares=first)
        release.refuse_early(api, helm, given.release, values)
        release.install(run_dir, helm, given, values)
        self._places.pop(run_dir, None)
        return Handle(self.name, given.release, run_dir)

    def status(self, run_dir: Path) -> Status:
        """From the API, which knows whether the run lives, and the newest record."""
        place = self._place(run_dir)
        if place is None:
            return Status(RunState.NONE, "not submitted yet")
        if place.given.is_over:
            return observe.ended(run_dir, RunSnapshot(None), place.given)
        if place.seen is None or time.monotonic() - place.seen.asked > _FRESH_SECONDS:
            status = self._ask(place)
            place.seen = _CachedStatus(time.monotonic(), status)
        return place.seen.status

    def logs(
        self, run_dir: Path, *, rank: int | None = None, attempt: int | None = None, follow: bool = False
    ) -> Iterator[str]:
        """Out of the run directory, or its copy here, which is brought up to date while it is read."""
        place = self._place(run_dir)
        if place is not None and rank not in (None, 0):
            place.ranks, place.seen = (0, rank or 0), None
            self._fetch_late(place)

        def alive() -> bool:
            return self.status(run_dir).state.is_alive

        alive()
        return read_logs(run_dir, rank, attempt, follow, alive)

    def stop(self, run_dir: Path) -> None:
        """Leaves the wish in the run directory, by one of the run's pods."""
        self._request_stop(self._required(run_dir), "tuneyard stop", urgent=False)

    def cancel(self, run_dir: Path) -> None:
        """Asks the agents to end the run as the user's wish; then, or when it only waits, removes the release."""
        place = self._place(run_dir)
        if place is None or place.given.is_over:
            return
        snapshot = observe.snapshot_of(place.api, place.given)
        if not snapshot.is_over and snapshot.running:
            self._request_stop(place, "tuneyard cancel", urgent=True)
            self._wait_for_end(place, place.launch.grace_seconds + AGENT_SECONDS + _CLOSING_SECONDS / 3)
        self._take_all(place, observe.snapshot_of(place.api, place.given))
        helm = release.helm_of(place.site, place.given.namespace)
        release.remove(place.run_dir, helm, place.given)
        self._places.pop(place.run_dir, None)
        gone_within = place.launch.grace_seconds + AGENT_SECONDS + _CLOSING_SECONDS
        if not release.wait_until_gone(place.api, observe.selector(place.given.release), gone_within):
            words = f"pods of {place.given.release} do not end"
            raise ClusterError(words, "their node may be lost: `kubectl get pods` shows where they are")

    def fetch_model(self, run_dir: Path, tell: Callable[[int, int], None]) -> Path:
        """From the claim, by one of the run's pods, or one made for it, into the run directory here."""
        place = self._required(run_dir)
        if not place.given.mirrored:
            return super().fetch_model(place.run_dir, tell)
        target = place.run_dir / "model"
        with self._pod_that_sees(place) as pod:
            ask = lambda command: place.api.execute(*pod, command)[0]  # noqa: E731
            download.fetch(ask, f"{place.given.path}/model", target, tell)
        return target

    @contextlib.contextmanager
    def _pod_that_sees(self, place: _SubmittedRun) -> Iterator[tuple[str, str]]:
        """A pod with the claim, and its container. One that was made for it is removed afterwards."""
        snapshot = observe.snapshot_of(place.api, place.given)
        if snapshot.running:
            yield snapshot.running[0].name, snapshot.running[0].container
            return
        workload = observe.workload_json(place.api, place.given)
        if workload is None:  # it is gone some time after its end; what it was is rendered anew
            text = self.rendered(place.run_dir, read_plan(place.run_dir), (place.run_dir / JOB).read_text("utf-8"))
            kinds = ("Job", "JobSet")
            every = [one for one in place.api.manifests(text) if one["kind"] in kinds]
            workload = next(one for one in every if not objects.is_preparing(one))
        with reader_pod.staying(place.api, workload) as pod:
            yield pod, TRAINER

    def wait(self, run_dir: Path, timeout_seconds: float | None = None) -> Status:
        """Watches the run's pods."""
        deadline = None if timeout_seconds is None else time.monotonic() + timeout_seconds
        while (status := self.status(run_dir)).state not in (RunState.NONE, RunState.ENDED):
            left = _WATCH_SECONDS if deadline is None else deadline - time.monotonic()
            if left <= 0:
                break
            self._wait_for_change(self._required(run_dir), left)
        return status

    def _place(self, run_dir: Path) -> _SubmittedRun | None:
        run_dir = run_dir.resolve()
        given = read_submitted(run_dir)
        if given is None:
            return None
        known = self._places.get(run_dir)
        if known is not None and known.given == given:
            return known
        plan = read_plan(run_dir)
        plan.launch.require_startable()
        api = Api(given.context, given.namespace)
        place = _SubmittedRun(run_dir, given, site_of(plan), api, plan.launch)
        self._places[run_dir] = place
        return place

    def _required(self, run_dir: Path) -> _SubmittedRun:
        place = self._place(run_dir)
        if place is None:
            raise ClusterError(f"{run_dir.name} was not submitted yet", "resume it")
        return place

    def _ask(self, place: _SubmittedRun) -> Status:
        try:
            snapshot = observe.snapshot_of(place.api, place.given)
            if snapshot.is_over:
                return self._over(place, snapshot)
            if place.given.mirrored and snapshot.running:
                self._sync(place, snapshot)
        except TuneyardError as error:
            return _as_far_as_known(place, error)
        wanted = place.launch.nodes
        if snapshot.waits_for_data:
            status = observe.preparing(place.run_dir, snapshot, place.given)
        else:
            if observe.is_trained(place.run_dir, place.given):
                wanted, snapshot = 1, snapshot.of_head()
            status = observe.living(place.run_dir, snapshot, wanted, place.given)
        if status is not None:
            return status
        record = newest_attempt(place.run_dir)
        words = observe.waiting(place.api, place.given, snapshot, wanted)
        return Status(RunState.QUEUED, words, record.number if record else None)

    def _over(self, place: _SubmittedRun, snapshot: RunSnapshot) -> Status:
        """The run is over: what its end left is taken here once, and the cluster is not asked again."""
        self._take_all(place, snapshot)
        observe.correct(place.run_dir, snapshot, place.given)
        status = observe.ended(place.run_dir, snapshot, place.given)
        record = newest_attempt(place.run_dir)
        if record is not None and observe.is_of(record, place.given) and record.outcome:
            place.given = replace(place.given, is_over=True)
            write_submitted(place.run_dir, place.given)
        return status

    def _sync(self, place: _SubmittedRun, snapshot: RunSnapshot) -> None:
        """Brings the copy of the run directory up to date; a pod that is about to leave may cut the answer short."""
        for pod in snapshot.running:
            with contextlib.suppress(ClusterError):
                for _ in range(_MOST_ANSWERS):
                    line = mirror.command(place.given.path, place.run_dir, place.ranks)
                    answer, _, _ = place.api.execute(pod.name, pod.container, line)
                    if not mirror.take(answer, place.run_dir):
                        break
                return

    def _take_all(self, place: _SubmittedRun, snapshot: RunSnapshot) -> None:
        """Everything about the run that can still be had: by its pods, by a reader, from what pod 0 said last."""
        if not place.given.mirrored:
            return
        self._fetch_late(place)
        record = newest_attempt(place.run_dir)
        if record is not None and observe.is_of(record, place.given) and record.outcome:
            return
        heads = [pod for pod in snapshot.every_pod if pod.index == 0]
        taken = [mirror.take_ledger(place.api.pod_log(pod.name, pod.container, 40), place.run_dir) for pod in heads]
        if not any(taken) and (found := observe.termination_message(snapshot)):
            observe.as_last_record(place.run_dir, found, place.given)

    def _fetch_late(self, place: _SubmittedRun) -> None:
        """By a pod made for it, where none of the run's own is left; nothing where that may not be made."""
        if not place.given.mirrored:
            return
        snapshot = observe.snapshot_of(place.api, place.given)
        if snapshot.running:
            self._sync(place, snapshot)
            return
        workload = observe.workload_json(place.api, place.given)
        if workload is None or not any(pod.has_run for pod in snapshot.every_pod):
            return
        with contextlib.suppress(TuneyardError):
            for _ in range(_MOST_ANSWERS):
                line = mirror.command(place.given.path, place.run_dir, place.ranks)
                if not mirror.take(reader_pod.ask(place.api, workload, line), place.run_dir):
                    return

    def _request_stop(self, place: _SubmittedRun, by: str, *, urgent: bool) -> None:
        if not place.given.mirrored:
            write_stop(place.run_dir, StopReason.STOPPED, by, urgent=urgent)
            return
        command = mirror.stop_command(place.given.path, stop_request(StopReason.STOPPED, by, urgent=urgent))
        running = observe.snapshot_of(place.api, place.given).running
        for pod in running:
            _, errors, code = place.api.execute(pod.name, pod.container, command)
            if code == 0:
                return
        words = errors.strip().splitlines()[-1:] if running else ["none of its pods runs"]
        raise ClusterError(f"{place.given.release} could not be told: {''.join(words)}", "cancel it")

    def _wait_for_end(self, place: _SubmittedRun, seconds: float) -> None:
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline and not observe.snapshot_of(place.api, place.given).is_over:
            self._wait_for_change(place, min(2.0, deadline - time.monotonic()))

    def _wait_for_change(self, place: _SubmittedRun, seconds: float) -> None:
        """Until a pod changes, but no sooner than an answer is stale, and no later than a watch is long."""
        time.sleep(min(_FRESH_SECONDS, max(0.0, seconds)))
        for _ in place.api.changes(observe.selector(place.given.release), min(seconds, 5.0)):
            return

    def _clear_away(self, run_dir: Path) -> None:
        """The release of an earlier life of the run has to go before there is a new one of its name."""
        place = self._place(run_dir)
        if place is None:
            if (who := lock.holder(run_dir)) is not None:
                raise lock.LockHeldError(*lock.already_running(run_dir, who))
            return
        snapshot = observe.snapshot_of(place.api, place.given)
        if not snapshot.is_over:
            raise ClusterError(f"{run_dir.name} is {place.given.release} already", "wait for it, or cancel it")
        self._take_all(place, snapshot)
        release.helm_of(place.site, place.given.namespace).uninstall(place.given.release)
        release.wait_until_gone(place.api, observe.selector(place.given.release), _CLOSING_SECONDS)


def _as_far_as_known(place: _SubmittedRun, error: TuneyardError) -> Status:
    """The API does not answer: the run directory alone tells, and no more than it can."""
    record = newest_attempt(place.run_dir)
    number = record.number if record else None
    return Status(RunState.UNKNOWN, f"Kubernetes does not answer: {error.message}", number)
