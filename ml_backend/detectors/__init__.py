"""Detectors: what all of them share, and one room or module for each."""
