"""Every refusal keeps the scheduler's words and says what to do. The first ones were recorded on the testbed."""

import pytest

from cluster.slurm.scheduler.errors import KINDS, absent, refusal

FAILED = "sbatch: error: Batch job submission failed: "
SAID = [
    ("sbatch: error: invalid partition specified: nope\n" + FAILED + "Invalid partition name specified", "partition"),
    (FAILED + "Requested node configuration is not available", "impossible"),
    ("sbatch: error: Memory specification can not be satisfied\n" + FAILED + "Requested node configuration", "memory"),
    (FAILED + "Invalid feature specification", "constraint"),
    (FAILED + "Requested reservation is invalid", "reservation"),
    ("sbatch: error: Invalid generic resource (gres) specification", "gpus"),
    (FAILED + "Invalid license specification", "license"),
    (FAILED + "Invalid node name specified", "nodes"),
    ("sbatch: unrecognized option '--bogus'\nTry \"sbatch --help\" for more information", "script"),
    ("sbatch: error: Invalid --time specification", "time_limit"),
    ("sbatch: error: Unable to open file /nonexist", "script"),
    ("sbatch: error: This does not look like a batch script.  The first", "script"),
    ("sbatch: error: Batch script contains DOS line breaks (\\r\\n)", "script"),
    ("slurm_load_jobs error: Invalid job id specified", "unknown_job"),
    ("scancel: error: Kill job error on job id 13: Access/permission denied", "not_yours"),
    ("Invalid user id for job 13", "not_yours"),
    (FAILED + "Unable to contact slurm controller (connect failure)", "unreachable"),
    ("squeue: fatal: Unable to process configuration file", "no_configuration"),
    # of larger sites, from SLURM's own table of errors
    (FAILED + "Invalid account or account/partition combination specified", "account"),
    (FAILED + "Invalid qos specification", "qos"),
    (FAILED + "Job violates accounting/QOS policy (job submit limit, user's size and/or time limits)", "limit"),
    ("sbatch: error: AssocMaxSubmitJobLimit\n" + FAILED + "Job violates accounting/QOS policy", "limit"),
    (FAILED + "Requested time limit is invalid (missing or exceeds some limit)", "time_limit"),
    (FAILED + "Node count specification invalid", "nodes"),
    (FAILED + "User's group not permitted to use this partition", "partition"),
    (FAILED + "Socket timed out on send/recv operation", "unreachable"),
    ("sbatch: error: job_submit: please name a project with -A", "site_policy"),
]


@pytest.mark.parametrize(("said", "kind"), SAID, ids=[kind for _, kind in SAID])
def test_refusals_are_recognised(said: str, kind: str) -> None:
    error = refusal("sbatch", said)
    assert error.kind == kind
    assert error.remedy == KINDS[kind][1]
    assert said.splitlines()[0].partition("error: ")[2] in error.message


def test_what_is_not_known_keeps_its_words() -> None:
    error = refusal("scontrol requeue", "The moon is in the wrong phase\n")
    assert (error.kind, error.message) == ("other", "scontrol requeue: The moon is in the wrong phase")
    assert error.remedy


def test_silence_and_absence() -> None:
    assert "without a word" in refusal("sbatch", " \n").message
    assert absent("sbatch").kind == "absent" and "login node" in absent("sbatch").remedy
