"""The job file: one YAML file that describes a fine-tune; all its problems are reported at once."""

from launcher.jobfile.loader import LoadedJob, load_job
from launcher.jobfile.schema import JobFile
from launcher.yamlfile.problems import JobFileError, Problem, SettingError

__all__ = ["JobFile", "JobFileError", "LoadedJob", "Problem", "SettingError", "load_job"]
