"""The chart's own tools."""
