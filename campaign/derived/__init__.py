"""What follows from the stored facts: whose answers count, the open searches, the dataset as it stands, what is spent.

The only place that works it out. Views are folds over facts with a cursor: they read what is new, survive their
process as snapshots, may be dropped at any time and come out the same. Nothing here writes facts.
"""
