"""What a YAML file says, and on which line."""
