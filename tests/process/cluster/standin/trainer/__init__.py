"""A stand-in for the trainer: honours docs/run-directory.md, and fails as plan.json asks it to."""
