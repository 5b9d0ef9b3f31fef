"""The Kubernetes backend: one Helm release per run, one pod per node, and what the API says about them.

The chart (helm/tuneyard) makes every object; pods have no access to the API (docs/decisions/0011-kubernetes.md).
"""
