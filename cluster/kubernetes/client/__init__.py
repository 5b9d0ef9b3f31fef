"""Speaking to a cluster: its API, Helm, what they refuse, and what this user may do."""
