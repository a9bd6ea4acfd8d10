"""Schemathesis on the server's own description: what it may be sent, and what it must not be, route by route."""

from __future__ import annotations

import copy

import pytest

from tests.security.surfaces_http import target

schemathesis = pytest.importorskip("schemathesis", reason="needs schemathesis (the group test)")
from hypothesis import HealthCheck, Phase, given, settings  # noqa: E402
from schemathesis import GenerationMode  # noqa: E402
from schemathesis.checks import not_a_server_error  # noqa: E402
from schemathesis.core.failures import FailureGroup  # noqa: E402
from schemathesis.specs.openapi.checks import (  # noqa: E402
    content_type_conformance,
    status_code_conformance,
)

CASES = 20  # of each operation
REFUSED = {302, 400, 401, 403, 404, 405, 413, 415}
CHECKS = [not_a_server_error, status_code_conformance, content_type_conformance]


def operations(description):
    """All operations of a description, by name."""
    schema = schemathesis.openapi.from_dict(description)
    schema.app = target().app
    schema.config.generation.update(modes=[GenerationMode.POSITIVE, GenerationMode.NEGATIVE])
    return {found.ok().label: found.ok() for found in schema.get_all_operations()}


def rights(operation):
    """What a request must bring to be let in: the arguments of a call."""
    made = target()
    schemes = {scheme for entry in operation.definition.raw.get("security", []) for scheme in entry}
    if "session" in schemes:
        made.log_in()
        name = f"campaign_{made.store.key}"
        return {"cookies": {name: made.lead.get_cookie(name, path="/lead").value}}
    if "webhook" in schemes:
        return {"headers": {"X-Campaign-Secret": made.secrets["webhook_secret"]}}
    return {"auth": ("campaign", made.secrets["backend_password"])} if "basic" in schemes else {}


def attack(operation, cases):
    """Plays that many requests of an operation, each without its rights and with them."""

    @given(case=operation.as_strategy())
    @settings(
        max_examples=cases, derandomize=True, database=None, deadline=None, phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )  # fmt: skip
    def play(case):
        if operation.definition.raw.get("security"):  # first, as a call leaves its rights with the case
            assert case.call().status_code in REFUSED, "let in without a right"
        case.call_and_validate(checks=CHECKS, **rights(operation))

    play()


LABELS = [f"{method.upper()} {address}" for address, known in target().description["paths"].items() for method in known]


@pytest.mark.parametrize("label", LABELS)
def test_no_request_is_answered_otherwise_than_described(label):
    attack(operations(target().description)[label], CASES)


def test_an_answer_that_is_not_described_is_seen():
    description = copy.deepcopy(target().description)
    responses = description["paths"]["/crops/{token}.jpg"]["get"]["responses"]
    del responses["403"], responses["404"]
    with pytest.raises(FailureGroup):
        attack(operations(description)["GET /crops/{token}.jpg"], CASES)
