"""The default policy: what it believes, and what it does about it."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.cluster.hierarchy import linkage

from campaign.clustering import Tree
from campaign.records.verdict import Verdict
from campaign.search.evidence import Evidence, Outcome
from campaign.search.policies import Adaptive, AnnotatorQuality, Paper
from campaign.search.policies.prior import QUALITIES, Prior, fit_prior
from campaign.search.thresholds import Thresholds, learn_thresholds
from campaign.search.tree_search import Search
from ml_backend.errors import InputError
from tests.campaign.search.builders import random_tree, run

THRESHOLDS = Thresholds(0.0, 0.0, prior=Prior())


def evidence(yes=0, no=0, size=1000, score=0.6, unsure=0, parent=None) -> Evidence:
    return Evidence(0, size, score, yes=yes, no=no, unsure=unsure, parent=parent)


def expected(given: Evidence, policy: Adaptive | None = None, answered_later: tuple[int, int] = (0, 0)) -> float:
    """Expected quality; `answered_later` answers come after the cluster was first looked at."""
    policy = policy or Adaptive()
    policy.density(given, THRESHOLDS)
    given.yes, given.no = given.yes + answered_later[0], given.no + answered_later[1]
    return float(policy.density(given, THRESHOLDS) @ QUALITIES)


def kind(outcome: Outcome | int) -> str | int:
    return outcome.kind if isinstance(outcome, Outcome) else outcome


def test_answers_move_the_belief():
    assert expected(evidence(5, 0)) > expected(evidence(2, 0)) > expected(evidence()) > expected(evidence(0, 2))
    assert expected(evidence(300, 100)) == pytest.approx(0.75, abs=0.02)


def test_belief_is_corrected_for_annotators():
    careless = Adaptive(annotators=AnnotatorQuality(0.9, 0.9))
    # of masks of quality 0.95 annotators of 90 % pass 0.95 · 0.9 + 0.05 · 0.1 = 0.86
    assert expected(evidence(860, 140, 10**6), careless) == pytest.approx(0.95, abs=0.02)
    assert expected(evidence(860, 140, 10**6)) == pytest.approx(0.86, abs=0.02)


def test_answers_beside_a_cluster_say_something_of_it():
    def child(parent_yes: int, parent_no: int) -> float:
        parent = evidence(parent_yes, parent_no, size=2000)
        Adaptive().density(parent, THRESHOLDS)
        # none of the parent's answers lie in the child
        parent.memo = Adaptive()._prior(evidence(size=2000), Prior())
        return expected(evidence(parent=parent))

    assert child(20, 0) > child(0, 0) > child(0, 20)
    assert child(20, 0) < expected(evidence(20, 0))  # but less than as many answers inside


@pytest.mark.parametrize(
    ("given", "outcome"),
    [
        (evidence(15, 0), "accept"),
        (evidence(60, 0, size=10**6), "accept"),
        (evidence(2, 8), "split"),
        (evidence(30, 30), "split"),
        (evidence(6, 0, size=6), "accept"),
        (evidence(0, 1, size=1), "reject"),
        (evidence(1, 0, size=1), "accept"),
        (evidence(0, 6, size=8, score=0.3), "reject"),
        (evidence(0, 0, size=3, unsure=3), "reject"),
    ],
)
def test_decisions(given, outcome):
    assert kind(Adaptive().consider(given, THRESHOLDS)) == outcome


def test_rejects_below_k_pr_unseen():
    outcome = Adaptive().consider(evidence(score=0.2), Thresholds(0.25, 0.5))
    assert outcome == Outcome("reject", "S <= K_pr")


@pytest.mark.parametrize(("size", "least"), [(1, 1), (2, 2), (3, 3), (4, 3), (100, 8), (10**4, 15), (10**6, 15)])
def test_no_cluster_is_accepted_on_fewer_answers(size, least):
    policy = Adaptive()
    assert policy.least_answers(size) == least
    for answered in range(least):
        given = evidence(answered, 0, size=size, score=0.99)
        outcome = policy.consider(given, THRESHOLDS)
        assert kind(outcome) != "accept"


def test_more_is_asked_where_more_is_at_stake():
    def answers_until_decided(size: int, quality: float) -> float:
        counts = []
        for seed in range(20):
            rng = np.random.default_rng(seed)
            given = evidence(size=size, score=0.7)
            while not isinstance(more := Adaptive().consider(given, THRESHOLDS), Outcome):
                yes = int(rng.binomial(more, quality))
                given.yes, given.no = given.yes + yes, given.no + more - yes
            counts.append(given.drawn)
        return float(np.mean(counts))

    assert answers_until_decided(50, 0.7) < answers_until_decided(20_000, 0.7)
    assert answers_until_decided(20_000, 0.2) < 8 < answers_until_decided(20_000, 0.75)


def test_prior_is_learned():
    rng = np.random.default_rng(0)
    blob = rng.integers(0, 30, 1500)
    quality = rng.beta(0.6, 0.6, 30)[blob]
    score = np.clip(0.15 + 0.7 * quality + rng.normal(0, 0.05, 1500), 0.01, 0.99)
    points = np.column_stack([np.cos(blob), np.sin(blob * 1.7), score]) + rng.normal(0, 0.03, (1500, 3))
    tree, correct = Tree.build(linkage(points, "complete"), score), rng.random(1500) < quality
    prior = fit_prior(tree, correct)
    assert prior.clusters > 100 and prior.slope > 0 and prior.narrowing <= 0
    means = [prior.moments(s, 0.3)[0] for s in (0.3, 0.5, 0.8)]
    assert means == sorted(means)
    assert 1 / (1 + np.exp(-means[0])) < 0.4 < 0.75 < 1 / (1 + np.exp(-means[2]))


def test_prior_of_next_to_nothing_is_the_default():
    tree = Tree.build(np.array([[0, 1, 0.5, 2]]), np.array([0.5, 0.6]))
    assert fit_prior(tree, np.array([True, False])) == Prior()


def verified(n: int, seed: int, policy, error: float = 0.0):
    """A search over blobs of good and bad masks, with a learned prior: (search, truth)."""
    rng = np.random.default_rng(seed)

    def draw(count):
        blob = rng.integers(0, 16, count)
        quality = np.array([0.98, 0.96, 0.93, 0.9, 0.95, 0.97, 0.6, 0.5, 0.45, 0.3, 0.2, 0.1, 0.05, 0.1, 0.2, 0.0])[
            blob
        ]
        score = np.clip(0.25 + 0.5 * quality + rng.normal(0, 0.08, count), 0.01, 0.99)
        points = np.column_stack([np.cos(blob), np.sin(blob * 1.3), score]) + rng.normal(0, 0.05, (count, 3))
        return Tree.build(linkage(points, "complete"), score), rng.random(count) < quality

    heldout, correct = draw(600)
    tree, truth = draw(n)
    search = Search(tree, policy, learn_thresholds(heldout, heldout.mean_score[:600], correct), seed)
    answers = truth ^ (rng.random(n) < error)
    run(search, answers.astype(int))
    return search, truth


def outcome_of(search: Search, truth: np.ndarray) -> tuple[int, float]:
    """Masks and precision: accepted ones that were not voted down, and all that were voted yes."""
    inside = {leaf for leaf in search.accepted() if search.verdict(leaf) != Verdict.NO}
    inside |= {leaf for leaf in range(search.tree.n) if search.verdict(leaf) == Verdict.YES}
    return len(inside), float(np.mean(truth[sorted(inside)]))


@pytest.mark.parametrize("error", [0.0, 0.05])
def test_fewer_questions_for_as_many_correct_masks_of_the_quality_asked_for(error):
    adaptive = Adaptive(annotators=AnnotatorQuality(1 - error, 1 - error)) if error else Adaptive()
    sums = np.zeros((2, 3))
    for seed in range(12):  # a draw more or less decides large clusters, here as in Algorithm 1
        for row, policy in enumerate((Paper(), adaptive)):
            search, truth = verified(3000, seed, policy, error)
            masks, precision = outcome_of(search, truth)
            sums[row] += search.samples, masks, masks * precision
    (paper_questions, _, paper_correct), (questions, masks, correct) = sums
    assert questions <= paper_questions / 2
    assert correct >= paper_correct
    assert correct / masks >= adaptive.k_a + 0.03


@pytest.mark.parametrize("seed", range(3))
def test_order_of_facts_does_not_matter(seed):
    tree, rng = random_tree(400, seed), np.random.default_rng(seed)
    verdicts = rng.choice([Verdict.NO, Verdict.NO, Verdict.YES, Verdict.YES, Verdict.UNSURE], size=400)
    live = Search(tree, Adaptive(price=0.2), Thresholds(0.1, 0.2), seed)
    answered, hands = [], []
    while not live.done:
        hands += [leaf for ask in live.step(limit=int(rng.integers(1, 40))) for leaf in ask.leaves]
        rng.shuffle(hands)
        for _ in range(int(rng.integers(1, 10))):
            if hands:
                answered.append(hands.pop())
                live.answer(answered[-1], verdicts[answered[-1]])
    again = Search(tree, Adaptive(price=0.2), Thresholds(0.1, 0.2), seed)
    for leaf in rng.permutation(answered):
        again.answer(int(leaf), verdicts[leaf])
    assert again.step() == [] and again.done
    assert set(again.decisions) == set(live.decisions) and len(live.decisions) > 10
    assert again.questions == live.questions == len(answered)


def test_a_parents_answers_are_the_first_of_its_childrens_samples():
    tree = random_tree(300, 3)
    search = Search(tree, Adaptive(), Thresholds(0.0, 0.0), 3)
    run(search, np.random.default_rng(3).integers(0, 2, 300))
    asked = {d.cluster: d.asked for d in search.decisions}
    for decision in search.decisions:
        if decision.kind == "split":
            left, right = tree.children[decision.cluster]
            assert asked[left] + asked[right] >= decision.asked
    assert search.questions < sum(asked.values())


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: Adaptive(n_s=0), "n_s: expected a whole number of at least 1, got 0"),
        (lambda: Adaptive(k_a=1.5), "k_a: expected a quality above 0.5 and up to 1, got 1.5"),
        (lambda: Adaptive(price=0), "price: expected masks per question, above 0, got 0"),
        (lambda: AnnotatorQuality(0.4), "sensitivity: expected a share above 0.5 and up to 1, got 0.4"),
    ],
)
def test_bad_settings(build, message):
    with pytest.raises(InputError) as error:
        build()
    assert str(error.value).startswith(message)
