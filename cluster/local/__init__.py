"""The local backend: runs on the machine that submits."""
