"""RQ jobs on Redis: which steps are due, how one is run, and who runs them."""
