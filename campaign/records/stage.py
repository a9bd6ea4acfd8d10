"""The stages of a round."""

from __future__ import annotations

from campaign.records.names import Name


class Stage(Name):
    """Where a round stands: the step that is due, or done."""

    TRAIN = "train"
    DETECT = "detect"
    CLUSTER = "cluster"
    VERIFY = "verify"
    PROPAGATE = "propagate"
    DONE = "done"
