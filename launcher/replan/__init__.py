"""How the plan of a run that exists changes."""
