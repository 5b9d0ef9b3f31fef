"""`python -m launcher.cli`: the `tuneyard` command where it is not installed."""

from launcher.cli import main

main()
