"""Making a run's release: refused early in the API's own words, and leaving nothing behind when it fails."""

from __future__ import annotations

import contextlib
import json
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from cluster.errors import ClusterError
from cluster.kubernetes.client.api import JOBSET, Api
from cluster.kubernetes.client.errors import KubernetesError
from cluster.kubernetes.client.helm import Helm
from cluster.kubernetes.names import release_name
from cluster.kubernetes.submit.profile import JOB, SUBMIT
from cluster.kubernetes.submit.values import Submission, as_text, chart_values, site_of
from cluster.kubernetes.submitted import STATE, Submitted, read_submitted, write_submitted
from cluster.run.restart_policy import exclusions
from rundir.attempts import AttemptRecord
from rundir.paths import FINGERPRINT, PREFLIGHT
from rundir.plan import Plan

NODE_MARK = "#"
"""Between a node's name and a pod's index, where several pods of a run share a node (cluster.kubernetes.pod)."""


def helm_of(site: Mapping[str, Any], namespace: str) -> Helm:
    """Helm as the profile wants it."""
    context, chart = str(site.get("context", "")), str(site.get("chart", ""))
    return Helm(str(site.get("helm") or "helm"), context, namespace, chart)


def api_of(site: Mapping[str, Any]) -> Api:
    """The API as the profile reaches it."""
    return Api(str(site.get("context", "")), str(site.get("namespace", "")))


def submitted_now(run_dir: Path, plan: Plan, api: Api, now: float) -> Submitted:
    """What is about to be submitted. The names of a run that was submitted before stay."""
    site, before = site_of(plan), read_submitted(run_dir)
    runs = site.get("runs") or {}
    mirrored = not runs.get("local") or run_dir.resolve().parent != Path(runs["local"]).resolve()
    release = before.release if before else release_name(run_dir.name)
    name = release if mirrored else run_dir.name
    return Submitted(
        release=release,
        namespace=api.namespace,
        context=str(site.get("context", "")),
        workload=workload_kind(site, api),
        submitted=int(now),
        path=f"{str(runs.get('path', '/runs')).rstrip('/')}/{name}",
        mirrored=mirrored,
    )


def workload_kind(site: Mapping[str, Any], api: Api) -> str:
    """`jobset` where the profile wants it, or leaves it open and the cluster has it and lets this user make one."""
    wanted = site.get("jobset", "auto")
    if wanted == "never":
        return "job"
    there = api.serves(JOBSET, "jobsets")
    if wanted == "always" and not there:
        raise ClusterError("the cluster has no JobSet", "install it, or set `jobset: auto` in the site profile")
    return "jobset" if there and (wanted == "always" or api.may("create", "jobsets", JOBSET[0])) else "job"


def require_place_to_prepare(site: Mapping[str, Any], runs_dir: Path) -> None:
    """Refuses a run that is to be tokenised on this machine, and has its directory elsewhere."""
    if (site.get("prepare") or {}).get("where") != SUBMIT:
        return
    local = str((site.get("runs") or {}).get("local") or "")
    if not local or runs_dir.resolve() != Path(local).resolve():
        words = f"`prepare: {{where: submit}}` tokenises in the run's own directory, and {runs_dir} is not `runs.local`"
        raise ClusterError(words, "leave the folder of runs to the site profile, or say `where: job` there")


def prepares_first(run_dir: Path, site: Mapping[str, Any]) -> bool:
    """Whether a Job of its own tokenises first: the profile says so, and the data are not there already."""
    wanted = (site.get("prepare") or {}).get("where") == JOB
    return wanted and not any((run_dir / name).is_file() for name in (FINGERPRINT, PREFLIGHT))


def values_text(
    plan: Plan,
    submitted: Submitted,
    job_text: str,
    records: Sequence[AttemptRecord] = (),
    *,
    prepares: bool = False,
) -> str:
    """The chart's values of a run, as Helm gets them; `records` tell which nodes it keeps away from."""
    excluded = [one.node.partition(NODE_MARK)[0] for one in exclusions(list(records), submitted.submitted)]
    wanted = Submission(
        run_name=Path(submitted.path).name,
        submitted=submitted.submitted,
        job_text=job_text,
        plan_text=json.dumps(plan.to_json(), indent=1) + "\n",
        workload=submitted.workload,
        exclude=list(dict.fromkeys(excluded)),
        prepares=prepares,
    )
    return as_text(chart_values(plan, wanted))


def refuse_early(api: Api, helm: Helm, release: str, values: str) -> None:
    """Lets the API check everything that would be made, a pod of the run included. Nothing is made.

    Raises:
        ClusterError: what is wrong, in the API's words.
    """
    for manifest in api.manifests(helm.template(release, values)):
        try:
            api.try_to_create(manifest)
        except KubernetesError as error:
            if (manifest["kind"], error.kind) != ("RoleBinding", "not_found"):  # of a Role that is not there yet
                raise
        for pod in _pods_of(manifest, release):
            _try_pod(api, pod)


def install(run_dir: Path, helm: Helm, submitted: Submitted, values: str) -> None:
    """Makes the release. When that fails, or is interrupted, neither it nor a word about it stays."""
    before = read_submitted(run_dir)
    write_submitted(run_dir, submitted)
    try:
        helm.install(submitted.release, values)
    except BaseException:
        with contextlib.suppress(ClusterError):
            helm.uninstall(submitted.release)
        if before is None:
            (run_dir / STATE).unlink(missing_ok=True)
        else:
            write_submitted(run_dir, before)
        raise


def remove(run_dir: Path, helm: Helm, submitted: Submitted) -> None:
    """Removes the release; what lies on claims stays."""
    helm.uninstall(submitted.release)
    write_submitted(run_dir, replace(submitted, is_over=True))


def wait_until_gone(api: Api, selector: str, seconds: float) -> bool:
    """Waits for the pods of a release that was removed; gives whether they are gone."""
    deadline = time.monotonic() + seconds
    while api.listed("pod", selector):
        if time.monotonic() > deadline:
            return False
        time.sleep(0.5)
    return True


def _pods_of(manifest: Mapping[str, Any], release: str) -> Iterator[dict[str, Any]]:
    spec = manifest.get("spec") or {}
    templates: list[dict[str, Any]]
    if manifest["kind"] == "Job":
        templates = [spec["template"]]
    elif manifest["kind"] == "JobSet":
        templates = [one["template"]["spec"]["template"] for one in spec.get("replicatedJobs") or ()]
    else:
        return
    for template in templates:
        pod = {"apiVersion": "v1", "kind": "Pod", **template}
        # the release's own account is not there yet, and an account that is missing would be all that is said
        account = {"serviceAccountName": "default"} if pod["spec"].get("serviceAccountName") == release else {}
        metadata = {**(pod.get("metadata") or {}), "name": f"{release}-try"}
        yield {**pod, "metadata": metadata, "spec": {**pod["spec"], **account}}


def _try_pod(api: Api, pod: dict[str, Any]) -> None:
    """A quota that is used up now may have room later: the run waits for that. Without the right to try, nobody can."""
    try:
        api.try_to_create(pod)
    except KubernetesError as error:
        if error.kind not in ("forbidden", "quota"):
            raise
