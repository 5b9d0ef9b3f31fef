"""What goes into the wheel; all else stands in pyproject.toml.

The chart and the site profiles lie at the top of the repository. In the wheel they lie inside a package, so that they
are found however it was installed: into an environment, with --user, or with --target.
"""

from setuptools import find_packages, setup

SHIPPED = ("helm", "helm/profiles", "helm/tuneyard", "slurm/profiles")
folders = {"cluster._shipped." + folder.replace("/", "."): folder for folder in SHIPPED}

setup(
    packages=[*find_packages(include=["launcher*", "cluster*", "trainer*", "rundir*"]), *folders],
    package_dir=folders,
)
