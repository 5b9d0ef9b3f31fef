"""Read YAML files with the line of every key, and describe their problems."""
