"""Attacks as tests, one file for each surface: what fails here is a hole."""
