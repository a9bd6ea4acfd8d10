"""Simulated annotators: verdicts from the true IoU of a mask, with slips, doubt and mistakes near where eyes cut."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from campaign.records.verdict import Verdict
from campaign.search.sampling import draw_keys
from ml_backend.errors import InputError

_NEAR = 0.1  # mistakes near the eye's cut fall off as a normal of this width
_SALTS = {"near": 11, "slip": 12, "unsure": 13, "user": 14}


@dataclass(frozen=True)
class Annotators:
    """A crowd of simulated annotators.

    Their eyes cut at the IoU `eye_cut`, by default at `k_iou`: from there on they take a mask for correct. `error` is
    the mean share of answers against their own eyes, over all masks and users. Of these the share `near` falls on
    masks whose IoU lies near the cut, and there all users err alike; the others are slips, each user's own. `unsure` is
    the share of masks that a user is unsure of. `spread` makes users unequal: their slips vary between (1 − spread) and
    (1 + spread) times the mean.
    """

    error: float = 0.0
    unsure: float = 0.0
    near: float = 0.5
    users: int = 3
    spread: float = 0.5
    k_iou: float = 0.75
    eye_cut: float | None = None

    def __post_init__(self) -> None:
        for name in ("error", "unsure"):
            value = getattr(self, name)
            if not 0 <= value < 0.5:
                raise InputError(name, "a share from 0 to below 0.5", value)
        for name in ("near", "spread"):
            value = getattr(self, name)
            if not 0 <= value <= 1:
                raise InputError(name, "a share from 0 to 1", value)
        if self.users < 1:
            raise InputError("users", "at least 1", self.users)
        if not 0 < self.cut < 1:
            raise InputError("eye_cut", "an IoU above 0 and below 1", self.cut)

    @property
    def cut(self) -> float:
        """The IoU at which their eyes cut."""
        return self.k_iou if self.eye_cut is None else self.eye_cut

    def verdicts(self, iou: np.ndarray, seed: int, repeat: int = 0) -> np.ndarray:
        """What is answered of each mask, (n,) int8 of `Verdict`: the same seed and repeat answer alike.

        Each mask goes to one of the users; with another `repeat` to another one, if there are several.
        """
        n = len(iou)
        correct = np.asarray(iou) >= self.cut
        user = self._who(n, seed, repeat)
        slip = (
            self.error * (1 - self.near) * (1 + self.spread * np.linspace(-1, 1, self.users)[user] * (self.users > 1))
        )
        wrong = self._uniform(n, seed, "slip", user) < slip
        if self.error and self.near:
            closeness = np.exp(-(((np.asarray(iou, np.float64) - self.cut) / _NEAR) ** 2))
            chance = np.minimum(0.5, self.error * self.near * closeness / max(closeness.mean(), 1e-9))
            wrong ^= self._uniform(n, seed, "near", None) < chance
        verdict = (correct ^ wrong).astype(np.int8)
        if self.unsure:
            verdict[self._uniform(n, seed, "unsure", user) < self.unsure] = Verdict.UNSURE
        return verdict

    def _who(self, n: int, seed: int, repeat: int) -> np.ndarray:
        first = draw_keys(seed, _SALTS["user"], np.arange(n)) % np.uint64(self.users)
        return ((first + np.uint64(repeat)) % np.uint64(self.users)).astype(np.int64)

    def _uniform(self, n: int, seed: int, what: str, user: np.ndarray | None) -> np.ndarray:
        """A number from 0 to 1 for each mask (and user)."""
        leaves = np.arange(n) if user is None else np.arange(n) * self.users + user
        keys = draw_keys(seed, _SALTS[what], leaves)
        return (keys >> np.uint64(11)).astype(np.float64) / 2**53
