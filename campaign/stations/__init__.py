"""The stations of the loop: each reads what the one before it stored, and may be run again at any time."""
