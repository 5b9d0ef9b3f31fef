"""What the scheduler says when it refuses, and what to do about each."""

from __future__ import annotations

import re

from cluster.errors import ClusterError

_LINES_KEPT = 4


class SlurmError(ClusterError):
    """SLURM refused or did not answer. `words` are its own; `kind` is one of KINDS' names, or `other`."""

    def __init__(self, message: str, remedy: str = "", *, kind: str = "other", words: str = "") -> None:
        super().__init__(message, remedy)
        self.kind = kind
        self.words = words or message


KINDS: dict[str, tuple[str, str]] = {
    "absent": (
        r"command not found|No such file or directory: '(sbatch|s\w+|scontrol)'",
        "use a login node of the cluster, or load its SLURM module; python -m slurm.testbed tries without a cluster",
    ),
    "unreachable": (
        r"Unable to contact slurm controller|Socket timed out|Zero Bytes were transmitted|Connection refused"
        r"|Connection timed out|slurm_persist_conn|Unexpected message received|Invalid authentication|Munge|Protocol",
        "the controller may be restarting: try again in some minutes; `scontrol ping` tells whether it is up",
    ),
    "no_configuration": (
        r"Unable to process configuration file|Could not establish a configuration source|cannot stat file",
        "unset SLURM_CONF, or point it to the cluster's slurm.conf",
    ),
    "unknown_job": (r"Invalid job id", "the scheduler has forgotten it, or it ran on another cluster"),
    "not_yours": (
        r"Access/permission denied|Invalid user id|Permission denied",
        "only the job's owner and operators may do that; ask who submitted it",
    ),
    "partition": (
        r"[Ii]nvalid partition|Partition not available|User's group not permitted|Required partition not available",
        "set `partition` in the site profile to one that `sinfo` lists and that your account may use",
    ),
    "account": (
        r"Invalid account|account/partition combination|Invalid wckey",
        "set `account` in the site profile; `sacctmgr show assoc user=$USER format=account,partition,qos` lists yours",
    ),
    "qos": (
        r"Invalid qos|[Ii]nvalid QOS",
        "set `qos` in the site profile; `sacctmgr show assoc user=$USER format=account,partition,qos` lists yours",
    ),
    "limit": (
        r"violates accounting/QOS policy|AssocMax|QOSMax|AssocGrp|QOSGrp|MaxJobs|MaxSubmit|job submit limit|MaxJobCount"
        r"|Slurm temporarily unable to accept job|quota",
        "wait until jobs of yours end, ask for fewer nodes or less time, or ask the site to raise the limit",
    ),
    "time_limit": (
        r"Requested time limit is invalid|[Tt]ime limit .*(exceed|invalid)|PartitionTimeLimit|Invalid --time",
        "set resources.walltime to at most the partition's MaxTime (`sinfo -o '%P %l'`)",
    ),
    "memory": (
        r"Memory (specification|required)",
        "lower `memory` in the site profile; `sinfo -o '%P %m'` shows what nodes have",
    ),
    "nodes": (
        r"Node count specification invalid|More processors requested|Invalid node name|Requested nodes are busy",
        "ask for fewer nodes, or nodes that `sinfo` lists in this partition",
    ),
    "gpus": (
        r"[Ii]nvalid (generic resource|gres)|Invalid Trackable RESource|Invalid GRES|gres",
        "set `gpu_request` and `gpu_types` in the site profile to what `sinfo -o '%P %G'` shows",
    ),
    "impossible": (
        r"Requested node configuration is not available",
        "no node of this partition has that many GPUs, CPUs or that much memory: compare with `sinfo -o '%P %G %c %m'`",
    ),
    "constraint": (
        r"Invalid feature specification",
        "set `constraint` in the site profile to features that `sinfo -o '%P %f'` shows",
    ),
    "reservation": (r"reservation is invalid|Access denied to reservation", "`scontrol show reservation` lists them"),
    "license": (r"Invalid license", "`scontrol show lic` lists the licenses"),
    "dependency": (r"[Dd]ependency problem|Invalid dependency", "the job that this one waits for is gone: submit anew"),
    "array": (
        r"[Ii]nvalid job array|MaxArraySize",
        "the site allows smaller job arrays: `scontrol show config | grep MaxArraySize`; give fewer values",
    ),
    "script": (
        r"does not look like a batch script|DOS line breaks|Unable to open file|unrecognized option|invalid option"
        r"|Invalid -?-\w+|Pathname of a file|Unable to open batch",
        "the script or a directive is wrong for this version of SLURM: look at `tuneyard submit --dry-run`",
    ),
    "site_policy": (
        r"job_submit|Unspecified error|cli_filter|Batch job submission failed: Job violates",
        "the site's own submission rules refused it: read its words above, or ask the site",
    ),
}
"""Each kind with how it is recognised and what to do. The first one that fits counts, so their order matters."""


def refusal(command: str, output: str) -> SlurmError:
    """The error for what a command said when it failed."""
    words = _without_noise(output) or "it failed without a word"
    for kind, (pattern, remedy) in KINDS.items():
        if re.search(pattern, words):
            return SlurmError(f"{command}: {words}", remedy, kind=kind, words=words)
    return SlurmError(f"{command}: {words}", "the site's support knows its own rules best", words=words)


def absent(command: str) -> SlurmError:
    """The error for a command that this machine does not have."""
    words = f"{command}: command not found"
    return SlurmError(f"SLURM is not here: {words}", KINDS["absent"][1], kind="absent", words=words)


def _without_noise(output: str) -> str:
    """The scheduler's lines without the command's own prefix, each once."""
    lines = [re.sub(r"^\w+: (error: |fatal: )?", "", line.strip()) for line in output.splitlines()]
    return "\n".join(list(dict.fromkeys(line for line in lines if line))[:_LINES_KEPT])
