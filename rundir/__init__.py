"""The run directory: every file in it, what each holds, and how it is read and written.

The launcher, the node agents and the trainer meet in these files only, so their names, keys and types are defined here
once (docs/run-directory.md). Standard library only; imported by all three packages, and imports none of them.

- `paths`: where each file lies. `files`: replacing a file atomically, reading one that may be damaged.
- `document`: the base of all types. Readers never raise over a value; what they do not know is kept when they write.
- `plan`, `progress`, `attempts`, `stop`, `after_training`, `observed`, `metrics`: one module for each document.
- `outcome`, `states`: the enumerations. `change_rules`: what changing a setting means for a run that has trained.
- `quantities`: times, sizes and counts for people. `errors`: the root of all errors that are meant for people.
"""
