"""Which plan, and why: every layout that a job leaves open, judged by memory and speed."""
