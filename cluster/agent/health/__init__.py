"""Is this machine fit to carry an attempt? `python -m cluster.agent.health RUN_DIR` prints the answers."""
