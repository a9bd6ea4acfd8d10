"""Campaigns that are disturbed in every way that a seed can think of, and what must hold of them afterwards."""
