"""A short run of the seeded attacks over HTTP, and the server's description of its routes against the routes."""

from random import Random

import pytest

from ml_backend.server.app import Access, create_app
from ml_backend.server.backend import Backend
from ml_backend.server.openapi import describe
from tests.ml_backend.bright_objects import BrightModel
from tests.security.surfaces_http import SURFACES, target

CASES = 150


@pytest.mark.parametrize("name", SURFACES)
def test_no_case_breaks_the_server(name):
    for seed in range(CASES):
        try:
            SURFACES[name](Random(f"{name} {seed}"))
        except Exception as error:
            raise AssertionError(f"case {seed} of {name}") from error


def test_every_route_describes_itself():
    description = target().description
    assert description["openapi"].startswith("3.")
    assert {"/crops/{token}.jpg", "/webhook", "/lead/clusters/{round_number}/{class_id}/{cluster}/change"} <= set(
        description["paths"]
    )
    routes = {
        (rule.endpoint, method)
        for rule in target().app.url_map.iter_rules()
        for method in (rule.methods or set()) - {"HEAD", "OPTIONS"}
    }
    described = [operation for methods in description["paths"].values() for operation in methods.values()]
    assert len({each["operationId"] for each in described}) == len(routes)
    assert all(each["summary"] for each in described)


def test_the_description_is_for_those_who_may_ask():
    client = create_app(backend=Backend(BrightModel(), None), access=Access(("a", "b"))).test_client()
    assert client.get("/openapi.json").status_code == 401
    assert "/predict" in client.get("/openapi.json", auth=("a", "b")).json["paths"]


def test_a_route_of_which_nothing_is_known_is_an_error():
    app = create_app()
    app.add_url_rule("/new", "new", lambda: "")
    with pytest.raises(KeyError, match="GET /new"):
        describe(app)
