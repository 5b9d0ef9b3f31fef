"""The batch script of a run, as text: options in, text out, no side effect.

Whatever a user or a site may write is a value here, and every value is quoted: a name with a quote, a space or a
`$(...)` in it stays a name. What no quoting can carry, line breaks and control characters, is refused.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

from cluster.errors import ClusterError
from cluster.slurm.profile import JobSettings

WARNING_SLOP_SECONDS = 60
"""SLURM warns up to so much earlier than it was asked to."""
AFTER_GRACE_SECONDS = 15
"""What an agent has beyond the grace period to end what did not leave, and to write its record."""
_WAIT_FOR_OTHERS_SECONDS = 60
_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_TEMPLATE = Path(__file__).with_name("batch.sh")
_GPU_STYLES = ("gpus-per-node", "gres", "gpus-per-task", "none")
_CONTAINERS = ("", "apptainer", "pyxis")
_DIRECTIVE = re.compile(r"[a-z][a-z-]*")
_MARK = re.compile("@([a-z_]+)@")

_REQUEUE = """\
if [ "$action" = again ]; then
  patiently scontrol requeue "$job"
  if [ -n "$exclude" ]; then patiently scontrol update JobId="$job" ExcNodeList="$exclude"; fi
fi"""

_PRESUBMIT = """
# A continuation is cancelled with the job before it: who cancels that by hand means the run.
# Preempted jobs are PREEMPTED, where they are not requeued, too.
state_of() {
  local found
  found=$(squeue --noheader --states=all --jobs="$1" --format=%T 2>/dev/null)
  if [ -z "$found" ]; then # the controller has forgotten it
    found=$(sacct --allocations --noheader --parsable2 --jobs="$1" --format=State 2>/dev/null)
  fi
  echo "${found%%[!A-Z_]*}"
}
if [ $# -gt 0 ] && [ "$(state_of "$1")" = CANCELLED ]; then
  once cluster.slurm.job.cancelled_job "$run_dir" "$1"
  exit 0
fi

# This site does not requeue: the next job waits in the queue from now on, so that it survives whatever ends this one.
submit_next() {
  local name
  while read -r name; do
    case "$name" in SLURM_CONF) ;; SLURM* | SBATCH* | SRUN* | PMI*) unset "$name" ;; esac
  done < <(compgen -e)
  sbatch --parsable --dependency="afterany:$1" "$run_dir/slurm.sh" "$1"
}
next=$(submit_next "$job") || next=""
next=${next%%;*}
if [ -n "$next" ]; then echo "$next - $(date +%s)" >>"$run_dir/logs/slurm-jobs"; fi
"""

_CHAIN = """\
if [ -n "$next" ] && [ "$action" != again ]; then patiently scancel "$next"; fi
if [ -n "$next" ] && [ "$action" = again ] && [ -n "$exclude" ]; then
  patiently scontrol update JobId="$next" ExcNodeList="$exclude"
fi"""


_RELEASE = """
# What the first node's agent says of the others: they have trained, and it exports without them; or it has left, and
# who has not followed it by now hangs.
watch_nodes() {
  local given=""
  while sleep 2; do
    case "$(cat "$TUNEYARD_RELEASED" 2>/dev/null)" in
      trained)
        if [ -n "$given" ]; then continue; fi
        given=1
        sleep 2 # their agents are leaving
        (cd "$run_dir/logs" && scontrol update JobId="$job" NumNodes=1 && rm -f slurm_job_*_resize.*) >&2
        ;;
      left)
        sleep @wait@
        scancel "$SLURM_JOB_ID.0"
        return
        ;;
    esac
  done
}
"""
_WATCH = """\
export TUNEYARD_RELEASED="$run_dir/logs/.released-$job"
rm -f "$TUNEYARD_RELEASED"
watch_nodes &
watcher=$!"""
_UNWATCH = """\
kill "$watcher" 2>/dev/null
rm -f "$TUNEYARD_RELEASED\""""


@dataclass(frozen=True, kw_only=True)
class SbatchSettings(JobSettings):
    """What the cluster wants to be told, from its profile: `launch.slurm` of plan.json."""

    gpu_style: str = "gpus-per-node"
    gpu_type: str = ""
    setup: Sequence[str] = ()
    """Lines of the site's own, put into the script as they are: the one place where text is not a value."""
    venv: str = ""
    container: str = ""
    image: str = ""
    mounts: Sequence[str] = ()
    prepare: Mapping[str, Any] = field(default_factory=dict)
    """Where the data are tokenised, and what that job asks for; empty: in the run's own job."""

    @classmethod
    def from_plan(cls, given: Mapping[str, Any]) -> SbatchSettings:
        """Reads it out of plan.json's `launch.slurm`; ClusterError names what is not known here."""
        if unknown := sorted(given.keys() - {one.name for one in fields(cls)}):
            raise ClusterError(f"plan.json: launch.slurm has unknown {', '.join(unknown)}", "plan the job again")
        return cls(**given)


@dataclass(frozen=True, kw_only=True)
class SbatchJob:
    """What is to run, from its plan."""

    run_dir: Path
    nodes: int
    grace_seconds: float
    submitted: float
    python: str
    code: Path
    cpus_per_node: int | None = None
    gpus_per_node: int = 0
    walltime_seconds: int | None = None
    lead_seconds: int | None = None
    exclude: Sequence[str] = ()
    goes_on_alone: bool = False
    """Whether the first node has something to do when training is over."""


def render(job: SbatchJob, site: SbatchSettings) -> str:
    """The whole script; ClusterError names a value that no script can carry."""
    releases = job.nodes > 1 and job.goes_on_alone
    wait = round(job.grace_seconds) + _WAIT_FOR_OTHERS_SECONDS
    directives = "".join(f"#SBATCH --{line}\n" for line in _directives(job, site))
    parts = {
        "directives": directives.rstrip("\n"),
        "run_dir": quoted(job.run_dir, "the run directory"),
        "python": quoted(site.python or job.python, "python"),
        "code": quoted(code_folder(job, site), "the code's folder"),
        "submitted": f"{job.submitted:.3f}",
        "nodes": str(job.nodes),
        "early": str(_early_seconds(job)),
        "overrun": 'scontrol requeue "$job"' if site.requeue else ":",
        "limit": str(job.walltime_seconds or 0),
        # srun's own clock would end the first node's work when the others have left
        "wait": "0" if releases else str(wait),
        "release": _RELEASE.replace("@wait@", str(wait)) if releases else "",
        "watch": _WATCH if releases else "",
        "unwatch": _UNWATCH if releases else "",
        "setup": "\n".join(setup_lines(site)),
        "container": container_words(job, site),
        "once": "srun --export=ALL --overlap --nodes=1 --ntasks=1 " if site.container == "pyxis" else "",
        "presubmit": "" if site.requeue else _PRESUBMIT,
        "decide": _REQUEUE if site.requeue else _CHAIN,
    }
    # in one pass: a value that looks like a mark stays a value
    return _MARK.sub(lambda mark: parts[mark[1]], _TEMPLATE.read_text(encoding="utf-8"))


def quoted(value: object, what: str) -> str:
    """A value as bash wants it."""
    text = str(value)
    if any(not character.isprintable() for character in text):
        raise ClusterError(f"{what} has a line break or a control character in it: {text!r}", "take it out")
    return shlex.quote(text)


def option(name: str, value: str) -> str:
    """A directive with a value, as sbatch reads it."""
    # sbatch takes quotes as a shell does, and a backslash as an escape within them, too
    return f"{name}={quoted(value, name)}".replace("\\", "\\\\")


def lead_seconds(job: SbatchJob) -> int:
    """How long before its end the job is warned; ClusterError when the walltime leaves no time to train."""
    lead = job.lead_seconds or round(job.grace_seconds) + AFTER_GRACE_SECONDS
    if lead < job.grace_seconds + AFTER_GRACE_SECONDS:
        least = round(job.grace_seconds) + AFTER_GRACE_SECONDS
        raise ClusterError(
            f"a warning {lead} s before the end is too late: the run has {job.grace_seconds:g} s to save",
            f"ask for at least {least} s, or lower resources.grace_seconds",
        )
    if job.walltime_seconds is not None and lead + WARNING_SLOP_SECONDS >= job.walltime_seconds:
        raise ClusterError(
            f"a walltime of {job.walltime_seconds} s leaves no time to train: SLURM warns {lead} s before its end, "
            f"and up to {WARNING_SLOP_SECONDS} s earlier",
            "raise resources.walltime, or lower resources.grace_seconds",
        )
    return lead


def _directives(job: SbatchJob, site: SbatchSettings) -> Iterator[str]:
    if "\\" in str(job.run_dir):  # it would turn off the pattern in the log's name
        raise ClusterError(f"{job.run_dir}: SLURM cannot write logs where a backslash is in the path", "rename it")
    log = str(job.run_dir / "logs" / "slurm-").replace("%", "%%") + "%j.log"
    yield option("job-name", job.run_dir.name)
    yield option("output", log)
    yield "open-mode=append"
    yield option("chdir", str(job.run_dir))
    yield f"nodes={job.nodes}"
    yield "ntasks-per-node=1"
    if job.cpus_per_node:
        yield f"cpus-per-task={job.cpus_per_node}"
    yield from _gpu_request(job, site)
    if job.walltime_seconds is not None:
        yield f"time={clock(job.walltime_seconds)}"
    yield f"signal=B:USR1@{lead_seconds(job)}"
    yield "requeue" if site.requeue else "no-requeue"
    for name in ("partition", "account", "qos", "constraint", "reservation", "comment"):
        if value := getattr(site, name):
            yield option(name, value)
    if site.memory:
        yield option("mem", site.memory)
    if site.exclusive:
        yield "exclusive"
    for name, value in site.directives.items():
        if not _DIRECTIVE.fullmatch(name):
            raise ClusterError(f"{name!r} is no directive of sbatch", "correct `directives` in the site profile")
        if value is not False:
            yield name if value is True else option(name, str(value))
    if job.exclude:
        yield option("exclude", ",".join(job.exclude))
    yield option("export", ",".join(variable_names(site.forward)) or "NONE")


def _gpu_request(job: SbatchJob, site: SbatchSettings) -> Iterator[str]:
    if site.gpu_style not in _GPU_STYLES:
        raise ClusterError(f"gpu_style is {site.gpu_style!r}", f"use one of: {', '.join(_GPU_STYLES)}")
    if not job.gpus_per_node or site.gpu_style == "none":
        return
    kind = f"{site.gpu_type}:" if site.gpu_type else ""
    prefix = "gpu:" if site.gpu_style == "gres" else ""
    yield option(site.gpu_style, f"{prefix}{kind}{job.gpus_per_node}")


def variable_names(names: Sequence[str]) -> list[str]:
    """Names of variables, refused where they are none."""
    for name in names:
        if not _NAME.fullmatch(name):
            raise ClusterError(f"{name!r} is no name of an environment variable", "forward names, never values")
    return list(names)


def clock(seconds: int) -> str:
    """A time as SLURM writes it, `1-02:03:04`."""
    days, rest = divmod(seconds, 86400)
    return f"{days}-{rest // 3600:02d}:{rest % 3600 // 60:02d}:{rest % 60:02d}"


def _early_seconds(job: SbatchJob) -> int:
    """A warning before this second of the job cannot be about its walltime."""
    if job.walltime_seconds is None:
        return 0
    return max(0, job.walltime_seconds - lead_seconds(job) - 2 * WARNING_SLOP_SECONDS)


def code_folder(job: SbatchJob, site: SbatchSettings) -> str:
    """What is put on the path. An installed Tuneyard lies among packages that another Python must not find."""
    return "" if site.python and job.code.name == "site-packages" else str(job.code)


def setup_lines(site: SbatchSettings) -> Iterator[str]:
    """The lines by which a job comes to its Python and its variables."""
    for module in site.modules:
        yield f"module load {quoted(module, 'a module')}"
    yield from site.setup
    if site.venv:
        yield f". {quoted(Path(site.venv) / 'bin' / 'activate', 'the venv')}"
    # last, so that no module takes a setting of the profile back
    for name, value in zip(variable_names(list(site.environment)), site.environment.values(), strict=True):
        yield f"export {name}={quoted(value, name)}"


def container_words(job: SbatchJob, site: SbatchSettings) -> str:
    """The words that stand before `python` on every node: srun's options for Pyxis, a command for Apptainer."""
    if site.container not in _CONTAINERS:
        raise ClusterError(f"container is {site.container!r}", f"use one of: {', '.join(filter(None, _CONTAINERS))}")
    if not site.container:
        return ""
    mounts = list(dict.fromkeys([str(job.run_dir), str(job.code), *site.mounts]))
    if odd := next((mount for mount in mounts if "," in mount), None):
        raise ClusterError(f"{odd!r} cannot be mounted into a container: it has a comma in it", "rename the folder")
    image = in_quotes(site.image, "the image")
    if site.container == "apptainer":
        binds = "".join(f" --bind {in_quotes(mount, 'a mount')}" for mount in mounts)
        return f"apptainer exec{' --nv' if job.gpus_per_node else ''}{binds} {image}"
    pairs = ",".join(mount if ":" in mount else f"{mount}:{mount}" for mount in mounts)
    return f"--container-image={image} --container-mounts={in_quotes(pairs, 'a mount')}"


def in_quotes(text: str, what: str) -> str:
    """A value as bash wants it, and always in quotes: a comma must not look as if it parted the words of an array."""
    found = quoted(text, what)
    return found if found.startswith("'") else f"'{found}'"
