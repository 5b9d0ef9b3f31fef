"""The settings that a job file leaves to the plan and that do not depend on memory, each decided with its reason."""
