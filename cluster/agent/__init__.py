"""The node agent: one per node, standard library only. Run it with `python -m cluster.agent RUN_DIR`.

It carries one attempt of a run from its first word in attempts.jsonl to its outcome: runs the phases, turns
signals into the `stop` file, ends what does not leave, and leaves no process behind (docs/node-agent.md).
"""
