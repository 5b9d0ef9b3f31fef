"""The processes of one node: what is started, in which environment, under which limits, and how it is asked to stop."""
