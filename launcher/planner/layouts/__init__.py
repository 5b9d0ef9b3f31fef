"""The parallel layouts that a job leaves open, each with its memory and its step time."""
