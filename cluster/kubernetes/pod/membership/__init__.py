"""Which pods a run has now: who a pod is, whether the others live, and what all of them start together."""
