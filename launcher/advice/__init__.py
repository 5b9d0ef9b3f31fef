"""Advise whether and how to fine-tune, by rules with sources, and warn where a job file departs from them."""
