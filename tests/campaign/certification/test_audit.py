"""Audit samples and the bounds read from them."""

from __future__ import annotations

import numpy as np
import pytest

from campaign.certification.audit import Audit, GoldCount, audit_sample, certify
from campaign.records.verdict import Verdict
from ml_backend.errors import InputError


def dataset(rng: np.random.Generator, clusters: int = 60) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Classes, clusters and correctness of accepted masks, in clusters of very unequal size and quality."""
    size = np.maximum(1, rng.lognormal(3, 1.3, clusters).astype(int))
    quality = rng.beta(9, 1, clusters)
    cluster = np.repeat(np.arange(clusters), size)
    correct = rng.random(len(cluster)) < quality[cluster]
    return (cluster % 3), cluster, correct


def test_audit_is_stratified_and_repeatable():
    classes, cluster = np.repeat([1, 2, 9], [6000, 3000, 40]), np.arange(9040) // 100
    audit = audit_sample(classes, cluster, 300, per_class=20, seed=4)
    assert audit == audit_sample(classes, cluster, 300, per_class=20, seed=4)
    assert audit != audit_sample(classes, cluster, 300, per_class=20, seed=5)
    assert audit.population == {1: 6000, 2: 3000, 9: 40}
    assert audit.drawn == {1: 199, 2: 100, 9: 20}
    # 60 clusters of 100 masks share 199 draws of class 1: each gets its 3.3, give or take the zones at its ends
    counts = np.bincount([cluster[d.row] for d in audit.draws if d.class_id == 1])
    assert counts.min() >= 2 and counts.max() <= 5
    assert sum(d.weight for d in audit.draws) == pytest.approx(len(audit.draws))


def test_every_mask_is_as_likely_to_be_drawn():
    classes, cluster = np.zeros(103, int), np.arange(103) // 10
    count = np.zeros(103)
    for seed in range(3000):
        for draw in audit_sample(classes, cluster, 20, seed=seed).draws:
            count[draw.row] += 1
    expected = 3000 * 20 / 103
    assert np.all(abs(count - expected) < 5 * np.sqrt(expected))


@pytest.mark.parametrize(
    ("n", "size", "wrong", "expected"),
    [
        (300, 100_000, 0, 0.05 ** (1 / 300)),  # nothing wrong: the bound solves p^n = alpha
        (300, 100_000, 30, 0.8670),  # Clopper-Pearson, 270 of 300
        (60, 60, 6, 0.9),  # all masks audited: known
    ],
)
def test_bound(n, size, wrong, expected):
    audit = audit_sample(np.zeros(size, int), np.zeros(size, int), n)
    answers = {row: Verdict.YES for row in audit.rows}
    for draw in audit.draws[:wrong]:
        answers[draw.row] = Verdict.NO
    certificate = certify(audit, answers)
    assert certificate.overall.lower_bound == pytest.approx(expected, abs=1e-3)
    assert certificate.overall == certificate.classes[0]
    assert certificate.overall.audited == n and "no gold" in certificate.note


def test_a_large_share_drawn_tightens_the_bound():
    bounds = []
    for size in (100_000, 600, 400):
        audit = audit_sample(np.zeros(size, int), np.zeros(size, int), 300)
        answers = {row: Verdict(int(i >= 15)) for i, row in enumerate(audit.rows)}
        bounds.append(certify(audit, answers).overall.lower_bound)
    assert bounds == sorted(bounds) and bounds[2] > bounds[0] + 0.01


def test_sentence_and_json():
    audit = audit_sample(np.zeros(5000, int), np.zeros(5000, int), 300)
    certificate = certify(audit, {row: Verdict.YES for row in audit.rows}, GoldCount(100, 98, 50, 49))
    assert certificate.sentence() == "precision ≥ 0.988 at 95%, 300 audited"
    assert certificate.as_dict()["classes"]["0"]["yes"] == 300
    assert certificate.sensitivity[0] == 0.98 and certificate.sensitivity[1] > 0.98
    assert certificate.specificity[0] == 0.98 and certificate.specificity[1] < 0.98


COVERAGE = [
    # error rate of annotators, gold questions of each kind, draws, least of a class
    (0.0, 0, 200, 0),
    (0.0, 0, 150, 60),
    (0.05, 200, 250, 40),
    (0.05, 40, 250, 0),
]


@pytest.mark.parametrize(("error", "gold", "draws", "per_class"), COVERAGE)
def test_coverage(error, gold, draws, per_class):
    """A thousand campaigns: the true precision lies at or above the bound in at least 95 % of them."""
    campaigns, covered, covered_class, tried = 1000, 0, 0, 0
    for seed in range(campaigns):
        rng = np.random.default_rng((7, seed))
        classes, cluster, correct = dataset(rng)
        audit = audit_sample(classes, cluster, draws, per_class=per_class, seed=seed)
        rows = np.array(audit.rows)
        yes = correct[rows] ^ (rng.random(len(rows)) < error)
        right = rng.binomial(gold, 1 - error, 2)
        count = GoldCount(gold, int(right[0]), gold, int(right[1]))
        certificate = certify(audit, dict(zip(rows.tolist(), yes.astype(int).tolist(), strict=True)), count)
        covered += certificate.overall.lower_bound <= correct.mean() + 1e-12
        for class_id, bound in certificate.classes.items():
            covered_class += bound.lower_bound <= correct[classes == class_id].mean() + 1e-12
            tried += 1
    assert covered >= 0.95 * campaigns
    assert covered_class >= 0.95 * tried


def test_the_bound_is_not_idle():
    """Exact does not mean wide: at 300 audited and 90 % correct the bound lies within four points."""
    gaps = []
    for seed in range(50):
        rng = np.random.default_rng(seed)
        classes, cluster, correct = dataset(rng)
        audit = audit_sample(classes, cluster, 300, seed=seed)
        certificate = certify(audit, {row: int(correct[row]) for row in audit.rows})
        gaps.append(correct.mean() - certificate.overall.lower_bound)
    assert 0 < np.mean(gaps) < 0.04


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: audit_sample(np.zeros(0), np.zeros(0), 5), "audit: expected at least one exported mask, got 0"),
        (lambda: audit_sample(np.zeros(3), np.zeros(2), 5), "class_id and cluster: expected one value for each mask"),
        (lambda: audit_sample(np.zeros(3), np.zeros(3), 0), "audit: expected at least one draw, got (0, 0)"),
        (lambda: certify(Audit((), {}, 0), {}, confidence=1.0), "confidence: expected a number above 0.5 and below 1"),
        (
            lambda: certify(audit_sample(np.zeros(9, int), np.zeros(9, int), 9), {0: Verdict.YES}),
            "audit: expected an answer to each of 9 questions, got 8 unanswered",
        ),
        (lambda: GoldCount(3, 4), "gold answers: expected no more right ones than asked"),
    ],
)
def test_bad_input(call, message):
    with pytest.raises(InputError) as error:
        call()
    assert str(error.value).startswith(message)
