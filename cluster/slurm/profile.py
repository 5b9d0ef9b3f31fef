"""A site profile: what one cluster wants to be told about every job. Plain values, checked one by one.

An #SBATCH line is not read by a shell: a line break begins a new directive, and what a directive may be called is
known. So control characters are refused in every value, and extra directives come from a list of allowed names.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any, Literal

from cluster.submitting.site_profiles import (
    Finding,
    Key,
    NotNegativeInt,
    PositiveInt,
    Text,
    Walltime,
    like,
    profile_from,
    setting,
    text,
    variable,
    variables,
)
from rundir.quantities import WALLTIME_PATTERN, walltime_seconds

JOB, SUBMIT, INSIDE = "job", "submit", "inside"
PREPARE_CPUS = 8
# fmt: off
DIRECTIVES = frozenset({
    "acctg-freq", "bb", "contiguous", "core-spec", "cpu-freq", "deadline", "delay-boot", "distribution", "gpu-bind",
    "gpu-freq", "gres-flags", "hint", "licenses", "mail-type", "mail-user", "mcs-label", "mem-bind", "mem-per-cpu",
    "mem-per-gpu", "mincpus", "network", "nice", "prefer", "priority", "profile", "segment", "sockets-per-node",
    "spread-job", "switches", "thread-spec", "threads-per-core", "tmp", "wckey",
})
# fmt: on
"""What a profile may add. Not in it: everything that Tuneyard sets itself, or that would change what runs."""
_FIRST_WITH_GPUS_PER_NODE = (19, 5)
_TYPE = re.compile(r"[\w.+-]+")
_MEMORY = re.compile(r"\d+[KMGT]?")
_WALLTIME = re.compile(WALLTIME_PATTERN)
_ABSOLUTE = re.compile(r"[/~$]")
_UNITS = {"K": 1024, "M": 1024**2, "G": 1024**3, "T": 1024**4, "": 1024**2}
_TEXTS = ("partition", "account", "qos", "constraint", "reservation", "comment", "python")


@dataclass(frozen=True, kw_only=True)
class Container:
    """The image that every process of ours runs in."""

    kind: Literal["apptainer", "pyxis"] = setting("How the site runs images.", "apptainer", required=True)
    image: Text = setting("A .sif or .sqsh file that all nodes see, or an image's address.", "", required=True)
    mounts: Sequence[Text] = setting("Folders that the job sees beside its own ones.", ())


@dataclass(frozen=True, kw_only=True)
class Setup:
    """How a job comes by its Python: at most one of venv, conda and container."""

    venv: Text = setting("Folder of a venv that all nodes see.", "")
    conda: Text = setting("Name or path of a conda environment.", "")
    container: Container | None = setting("An image, in place of both.")
    lines: Sequence[Text] = setting(
        "Shell lines of the site's own, run as they stand before anything else of ours.", ()
    )


@dataclass(frozen=True, kw_only=True)
class Preemption:
    """What the site does to a job before it takes machines away."""

    grace_seconds: NotNegativeInt | None = setting("Seconds between warning and end.")
    signal: Literal["", "USR1", "TERM"] = setting("The warning: the job's own USR1, or SIGTERM.", "")


@dataclass(frozen=True, kw_only=True)
class Prepare:
    """Where the data of runs are tokenised, so that no GPU waits for it, and what the job that does it asks for."""

    where: Literal["", "job", "submit", "inside"] = setting(
        "In a CPU job that the run's job waits for, on the submitting machine, or in the run's own job; "
        "default: a job where `partition` is given, else inside.",
        "",
    )
    partition: Text = setting("--partition of that job: one without GPUs.", "")
    account: Text = setting("Its --account; default: the run's.", "")
    qos: Text = setting("Its --qos; default: the run's.", "")
    constraint: Text = setting("Its --constraint.", "")
    cpus: PositiveInt | None = setting("CPU cores, each with a process that tokenises; default: 8.")
    memory: Text = setting("Its --mem, such as 64G.", "")
    walltime: Walltime = setting("Its longest time, such as 4h; default: the partition's.", "")

    @property
    def place(self) -> str:
        """In a job of its own where the profile names a partition for it; else in the run's own job."""
        return self.where or (JOB if self.partition else INSIDE)


@dataclass(frozen=True, kw_only=True)
class JobSettings:
    """What a profile says and the batch script is told under the same name."""

    partition: Text = setting("--partition; none takes the site's default.", "")
    account: Text = setting("--account.", "")
    qos: Text = setting("--qos.", "")
    constraint: Text = setting("--constraint: features that nodes must have.", "")
    reservation: Text = setting("--reservation.", "")
    comment: Text = setting("--comment.", "")
    python: Text = setting("Python on the nodes, where it is not the submitting one.", "")
    exclusive: bool = setting("Whole nodes only.", False)
    memory: Text = setting("--mem of each node, such as 480G; 0 takes all of it.", "")
    requeue: bool = setting("Whether the site lets jobs go back into the queue.", True)
    modules: Sequence[Text] = setting("`module load`ed, in this order.", ())
    environment: Mapping[str, str] = setting("Variables of the job. Never secrets.", factory=dict)
    forward: Sequence[Text] = setting("Variables taken over from who submits, by name.", ())
    directives: Mapping[str, bool | int | str] = setting("More #SBATCH directives.", factory=dict)


@dataclass(frozen=True, kw_only=True)
class Profile(JobSettings):
    """One cluster, or one way of using it."""

    name: str
    backend: Literal["slurm"] = setting("The scheduler.", "slurm")
    description: str = setting("One line for people.", "")
    gpu_request: Literal["auto", "gpus-per-node", "gres", "gpus-per-task", "none"] = setting(
        "How GPUs are asked for; auto follows SLURM's version, none asks for none.", "auto"
    )
    gpu_types: Mapping[str, Text] = setting("Our name of a GPU to the site's: {h100-80: h100}.", factory=dict)
    gpus_per_node: PositiveInt | None = setting("GPUs that each node has.")
    cpus_per_gpu: PositiveInt | None = setting("CPU cores asked for with each GPU.")
    setup: Setup = setting("How a job comes by its Python.", factory=Setup)
    nccl: Mapping[str, str] = setting("NCCL's settings without the NCCL_ prefix: {SOCKET_IFNAME: ib0}.", factory=dict)
    run_root: Text = setting("Folder of run directories, on storage that all nodes share.", "")
    scratch: Text = setting("Fast storage of a node, for caches.", "")
    max_walltime: Walltime = setting("The longest a job may run here, such as 24h.", "")
    preemption: Preemption = setting("What comes before machines are taken away.", factory=Preemption)
    prepare: Prepare = setting("Where the data of runs are tokenised.", factory=Prepare)

    @classmethod
    def from_dict(cls, name: str, data: Mapping[str, Any]) -> Profile:
        """A profile out of plain values.

        Raises:
            ProfileError: with everything that is wrong with them.
        """
        return profile_from(cls, name, data)

    def findings(self) -> Iterator[Finding]:
        """Everything that is wrong with the values."""
        for name in (*_TEXTS, "run_root", "scratch", "max_walltime"):
            yield from text((name,), getattr(self, name))
        yield from like(("memory",), self.memory, _MEMORY, "a size such as 480G, or 0 for all of a node")
        for kind, theirs in self.gpu_types.items():
            yield from like(("gpu_types", kind), theirs, _TYPE, "a GPU type as sinfo -o '%G' shows it")
        yield from self._directive_findings()
        yield from self._setup_findings()
        yield from self._environment_findings()
        for name in ("run_root", "scratch"):
            if (value := getattr(self, name)) and not _ABSOLUTE.match(value):
                yield Finding((name,), "must be an absolute path", value)
        if "$" in self.scratch:
            yield Finding(
                ("scratch",), "must be a plain path: values are quoted, and no variable is expanded", self.scratch
            )
        yield from self._prepare_findings()

    def gpu_style(self, version: Sequence[int] = ()) -> str:
        """How GPUs are asked for; `auto` follows the version of SLURM, and takes an unknown one for a new one."""
        if self.gpu_request != "auto":
            return self.gpu_request
        return "gres" if version and tuple(version) < _FIRST_WITH_GPUS_PER_NODE else "gpus-per-node"

    def gpu_type(self, gpu: str) -> str:
        """The site's name of a GPU; empty, and so not asked for, where the profile has none."""
        return self.gpu_types.get(gpu, "")

    def variables(self) -> dict[str, str]:
        """What the job's environment gets: where compiled kernels are kept, the profile's own, NCCL's settings."""
        caches = {"TRITON_CACHE_DIR": "triton", "TORCHINDUCTOR_CACHE_DIR": "inductor"} if self.scratch else {}
        return {
            **{name: f"{self.scratch.rstrip('/')}/{folder}" for name, folder in caches.items()},
            **self.environment,
            **{f"NCCL_{name.removeprefix('NCCL_')}": value for name, value in self.nccl.items()},
        }

    def site(self, gpu: str = "", version: Sequence[int] = ()) -> dict[str, Any]:
        """What the batch script is told: `SbatchSettings` as a plan keeps them."""
        container = self.setup.container
        found: dict[str, Any] = {one.name: getattr(self, one.name) for one in fields(JobSettings)}
        found |= {"modules": list(self.modules), "forward": list(self.forward), "environment": self.variables()}
        found |= {"python": self.python or self._own_python(), "setup": list(self.setup_lines())}
        found |= {"gpu_style": self.gpu_style(version), "gpu_type": self.gpu_type(gpu), "venv": self.setup.venv}
        found["directives"] = {
            name: value if isinstance(value, bool) else str(value) for name, value in self.directives.items()
        }
        if container:
            found |= {"container": container.kind, "image": container.image, "mounts": list(container.mounts)}
        if self.prepare.place != INSIDE:
            found["prepare"] = self._prepare_job()
        return found

    def run_folder(self) -> str:
        """Where runs go; every node sees it under the same path."""
        return self.run_root

    def host_bytes(self, num_ranks: int) -> int | None:
        """Main memory of a node; None where the profile says nothing, or all of it."""
        size = re.fullmatch(r"(\d+)([KMGT]?)", self.memory)
        return int(size[1]) * _UNITS[size[2]] if size and int(size[1]) else None

    def holds(self, path: str) -> bool:
        """Never: what login nodes do not see, compute nodes do not see."""
        return False

    def there(self, path: str) -> str | None:
        """The same path: login nodes and compute nodes share their storage."""
        return path

    def setup_lines(self) -> Iterator[str]:
        """The site's shell lines, then what wakes a conda environment."""
        yield from self.setup.lines
        if self.setup.conda:
            # the hook defines `conda activate` in a shell that read no .bashrc
            yield 'eval "$(conda shell.bash hook)"'
            yield f"conda activate {self.setup.conda}"

    def _prepare_job(self) -> dict[str, Any]:
        """What is asked for to tokenise; account and QOS are the run's unless others are named."""
        asked = self.prepare
        if asked.place != JOB:
            return {"where": asked.place}
        found: dict[str, Any] = {"where": JOB, "cpus": asked.cpus or PREPARE_CPUS}
        found |= {"partition": asked.partition, "constraint": asked.constraint, "memory": asked.memory}
        found |= {"account": asked.account or self.account, "qos": asked.qos or self.qos}
        if asked.walltime:
            found["walltime_seconds"] = walltime_seconds(asked.walltime)
        return {name: value for name, value in found.items() if value}

    def _own_python(self) -> str:
        """The Python of what the job is set up with; empty for the one that submits."""
        if self.setup.venv:
            return f"{self.setup.venv}/bin/python"
        return "python" if self.setup.conda or self.setup.container else ""

    def _prepare_findings(self) -> Iterator[Finding]:
        asked = self.prepare
        for name in ("partition", "account", "qos", "constraint"):
            yield from text(("prepare", name), getattr(asked, name))
        yield from like(("prepare", "memory"), asked.memory, _MEMORY, "a size such as 64G, or 0 for all of a node")
        yield from like(("prepare", "walltime"), asked.walltime, _WALLTIME, "a time such as 90m, 4h or 2d")
        for name in ("partition", "account", "qos", "constraint", "cpus", "memory", "walltime"):
            if asked.place != JOB and (value := getattr(asked, name)):
                remedy = "name the `partition` of a CPU job, or say `where: job`"
                yield Finding(("prepare", name), "says nothing without a job that tokenises", str(value), remedy)

    def _directive_findings(self) -> Iterator[Finding]:
        for name, value in self.directives.items():
            key: Key = ("directives", name)
            if name not in DIRECTIVES:
                yield Finding(key, "is not among the directives that a profile may add", name, _near_directive(name))
            elif not isinstance(value, bool) and value == "":
                yield Finding(key, "is empty", "", "write `true` for a directive without a value")
            else:
                yield from text(key, str(value))

    def _setup_findings(self) -> Iterator[Finding]:
        chosen = [name for name in ("venv", "conda", "container") if getattr(self.setup, name)]
        if len(chosen) > 1:
            yield Finding(("setup",), f"names {' and '.join(chosen)}", remedy="keep one of them")
        yield from text(("setup", "venv"), self.setup.venv)
        yield from like(("setup", "conda"), self.setup.conda, re.compile(r"[\w./-]+"), "an environment's name or path")
        for number, line in enumerate(self.setup.lines):
            yield from text(("setup", "lines", number), line)
        for number, module in enumerate(self.modules):
            yield from text(("modules", number), module)
        if container := self.setup.container:
            yield from text(("setup", "container", "image"), container.image)
            for number, mount in enumerate(container.mounts):
                yield from text(("setup", "container", "mounts", number), mount)
                if "," in mount:
                    yield Finding(("setup", "container", "mounts", number), "has a comma in it", mount, "rename it")

    def _environment_findings(self) -> Iterator[Finding]:
        for section in ("environment", "nccl"):
            yield from variables(section, getattr(self, section), "name it in `forward`, without value")
        for number, name in enumerate(self.forward):
            yield from variable(("forward", number), name)


def _near_directive(name: str) -> str:
    from difflib import get_close_matches

    near = get_close_matches(name, DIRECTIVES, n=1)
    return f"did you mean {near[0]}?" if near else f"allowed: {', '.join(sorted(DIRECTIVES))}"
