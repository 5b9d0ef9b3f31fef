"""Turns packing off for models whose conversations cannot share a row."""

from __future__ import annotations

from launcher.jobfile.schema import JobFile
from launcher.model.config import config_of
from launcher.planner.settings.defaults import Decision
from launcher.yamlfile.problems import SettingError
from trainer.capabilities import OWN, why_unpacked


def apart(job: JobFile) -> tuple[JobFile, list[Decision]]:
    """The job with packing off where its model requires that, and the decision that says so.

    Raises:
        SettingError: packing is asked for all the same.
    """
    reason = why_unpacked(config_of(job.model), job.data.max_length)
    if not reason and job.model.attention == OWN:
        reason = "the model's own attention knows no borders of conversations"
    if not reason or job.data.packing is False:
        return job, []
    if job.data.packing is True:
        raise SettingError("data.packing", reason, got=True, remedy="Write false, or leave it out.")
    changed = job.model_copy(update={"data": job.data.model_copy(update={"packing": False})})
    return changed, [Decision(setting="data.packing", value=False, reason=f"{reason}; each conversation is a row")]
