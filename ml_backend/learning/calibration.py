"""Calibration of predicted IoU: what the head says, mapped to what held-out masks were worth."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Calibration:
    """A rising piecewise linear map from raw to calibrated IoU; without knots it changes nothing.

    >>> Calibration((0.0, 1.0), (0.0, 0.5))(np.array([0.5, 1.0])).tolist()
    [0.25, 0.5]
    """

    raw: tuple[float, ...] = ()
    calibrated: tuple[float, ...] = ()

    def __call__(self, predicted: np.ndarray) -> np.ndarray:
        """Calibrated IoU of raw predictions (n,), float32."""
        predicted = np.asarray(predicted, np.float32)
        if not self.raw:
            return predicted
        return np.interp(predicted, self.raw, self.calibrated).astype(np.float32)

    @classmethod
    def fit(cls, predicted: np.ndarray, true: np.ndarray, knots: int = 20) -> Calibration:
        """Isotonic regression of true on predicted IoU, both (n,), smoothed to at most `knots` knots.

        The knots are means over equally full bins, so the map rises strictly between them and keeps the order of
        scores. With fewer than 100 masks there is too little to learn from, and nothing is changed.
        """
        from sklearn.isotonic import IsotonicRegression

        if len(predicted) < 100:
            return cls()
        order = np.argsort(predicted, kind="stable")
        bins = np.array_split(order, min(knots, len(predicted) // 25))
        x = np.array([predicted[b].mean() for b in bins], float)
        y = np.array([true[b].mean() for b in bins], float)
        y = IsotonicRegression(y_min=0.0, y_max=1.0).fit_transform(x, y)
        # A strict rise, which leaves space for one more at either end.
        rise = np.arange(1, len(y) + 1) * 1e-4
        y = np.minimum(y + rise, 1 - rise[::-1])
        low, high = float(min(predicted.min(), x[0] - 1e-3)), float(max(predicted.max(), x[-1] + 1e-3))
        xs = [min(low, 0.0), *x.tolist(), max(high, 1.0)]
        ys = [0.0, *y.tolist(), float(y[-1] + (1 - y[-1]) * 0.2)]
        keep = np.r_[True, np.diff(xs) > 1e-9]
        return cls(tuple(float(v) for v in np.array(xs)[keep]), tuple(float(v) for v in np.array(ys)[keep]))
