"""Policies: when to ask about a cluster's masks, how many of them, and when to decide."""

from __future__ import annotations

from collections.abc import Callable

from campaign.search.evidence import Policy
from campaign.search.policies.adaptive import Adaptive, AnnotatorQuality
from campaign.search.policies.paper import (
    ACCEPT_QUALITY,
    ORDERS,
    SAMPLE_SIZE,
    Curtailed,
    Cut,
    Paper,
    lower_bound,
    oracle_order,
)
from campaign.search.policies.target import Target
from ml_backend.errors import InputError

__all__ = [
    "ORDERS",
    "POLICIES",
    "Adaptive",
    "AnnotatorQuality",
    "Curtailed",
    "Cut",
    "Paper",
    "Target",
    "lower_bound",
    "make_policy",
    "oracle_order",
]

POLICIES: dict[str, Callable[..., Policy]] = {
    "adaptive": Adaptive,
    "paper": Paper,
    "curtailed": Curtailed,
    "target": Target,
}


def make_policy(
    name: str,
    n_s: int = SAMPLE_SIZE,
    k_a: float = ACCEPT_QUALITY,
    *,
    annotators: AnnotatorQuality | None = None,
    price: float | None = None,
) -> Policy:
    """The policy of a name. Raises InputError for an unknown one.

    `annotators` and `price` (masks that a question must bring) are for the adaptive policy; the others know neither.
    `target` decides no cluster: it only stands for what is decided over all masks together.
    """
    if name not in POLICIES:
        raise InputError("policy", "one of " + ", ".join(POLICIES), name)
    if name == "target":
        return Target()
    given = {"annotators": annotators, "price": price} if name == "adaptive" else {}
    return POLICIES[name](n_s=n_s, k_a=k_a, **{k: v for k, v in given.items() if v is not None})
