"""Decisions that the lead makes instead of the policy."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any, cast

from campaign.records.decision import Kind
from campaign.search.evidence import Evidence, Outcome, Policy
from campaign.search.policies.target import Target

LEAD_RULE = "decided by the lead"


class _Overridden:
    """A policy whose decisions of some clusters are the lead's; what is asked about them stays the policy's."""

    def __init__(self, policy: Policy, kinds: Mapping[int, str]):
        self._policy, self._kinds = policy, kinds

    def __getattr__(self, name: str) -> Any:
        return getattr(self._policy, name)

    def consider(self, evidence: Evidence, *more: Any) -> Outcome | int:
        outcome = self._policy.consider(evidence, *more)
        kind = self._kinds.get(evidence.cluster)
        if kind is None or not isinstance(outcome, Outcome):
            return outcome
        return outcome._replace(kind=cast(Kind, kind), rule=f"{LEAD_RULE}, against {outcome.kind}: {outcome.rule}")


def overridden(policy: Policy, kinds: Mapping[int, str]) -> Policy:
    """The policy, but a cluster in `kinds`, {cluster: kind}, is decided so once the policy has decided it.

    The evidence that the policy wanted stays the decision's, so an override shows what it goes against.
    """
    if isinstance(policy, Target):
        return replace(policy, orders=tuple(sorted(kinds.items())), rule=LEAD_RULE)
    return cast(Policy, _Overridden(policy, kinds)) if kinds else policy
