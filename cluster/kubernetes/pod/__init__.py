"""What runs as the first process of every pod: waits for the other pods, starts the node's agent, reports the end.

Standard library only. docs/kubernetes-pod.md describes it for people.
"""
