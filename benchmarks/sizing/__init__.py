"""Scores of sizing against published measurements."""
