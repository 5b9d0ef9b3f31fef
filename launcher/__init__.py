"""What should run, does it fit, and why: the job file, sizing, the planner, the command line and the report.

Importing this package, or any module in it, never imports torch, transformers or datasets.
"""

__version__ = "0.1.0"
