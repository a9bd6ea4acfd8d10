"""Campaigns that are disturbed in every way that a seed can think of, and what must hold of them afterwards."""

import os

# Processes are forked from one that has computed already, which the thread pools of libraries do not survive.
for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ[name] = "1"
