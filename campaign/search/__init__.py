"""What to ask and when to decide: the search of one tree, of several under one budget, thresholds and policies."""
