"""What the routes of the lead's page do, for the server's own description of its routes."""

from campaign.web.lead.explorer import Listing
from ml_backend.server.openapi import TEXT, Operation, Schema

_PAGE = {200: "text/html"}
_AWAY = {302: "text/html", 303: "text/html"}
_CLUSTER = "/lead/clusters/<round_number>/<class_id>/<cluster>"
_KIND: dict[str, Schema] = {"kind": {"enum": ["accept", "reject", "split", "policy"]}}
_COUNT: dict[str, Schema] = {"count": {"type": "integer", "minimum": 1, "maximum": 1000}}
_LIST: dict[str, Schema] = {
    "list": {"enum": [str(listing) for listing in Listing]},
    "page": {"type": "integer", "minimum": 0, "maximum": 999_999},
}
OPERATIONS: dict[str, Operation] = {
    "GET /lead/login": Operation("the login", "none", _PAGE, query={"then": TEXT}),
    "POST /lead/login": Operation(
        "checks user and password", "none", _AWAY, (401, 413, 429), form={"user": TEXT, "password": TEXT, "then": TEXT}
    ),
    "POST /lead/logout": Operation("ends the session", "session", _AWAY, (413,), form={}),
    "GET /lead/": Operation("the campaign at a glance", "session", _PAGE),
    "POST /lead/go-on": Operation("asks where the forecast is hopeless", "session", _AWAY, (413,), form={}),
    "GET /lead/drawn": Operation("what was corrected and painted by hand", "session", _PAGE),
    "GET /lead/annotators/<user>": Operation("one annotator", "session", _PAGE),
    "GET /lead/trees/<round_number>/<class_id>": Operation("the tree of a class", "session", _PAGE, query=_LIST),
    f"GET {_CLUSTER}": Operation("a cluster", "session", _PAGE),
    f"GET {_CLUSTER}/change": Operation("what another decision would change", "session", _PAGE, query=_KIND),
    f"POST {_CLUSTER}/change": Operation("takes that decision", "session", _AWAY, (413,), form=_KIND),
    f"POST {_CLUSTER}/edit": Operation("puts masks up for correction", "session", _PAGE, (413,), form=_COUNT),
    "GET /lead/masks/<mask_id>": Operation("a mask", "session", _PAGE),
    "POST /lead/masks/<mask_id>/edit": Operation("puts the mask up for correction", "session", _PAGE, (413,), form={}),
    "GET /lead/masks/<mask_id>/alike": Operation("masks that resemble it", "session", _PAGE),
    "GET /lead/pages/<number>": Operation("a page of questions", "session", _PAGE),
    "GET /lead/now": Operation("what of the overview moves", "session", {200: "text/html", 304: "*/*"}, (503,)),
    "GET /lead/tables/<name>.csv": Operation("a table as CSV", "session", {200: "text/csv"}, (503,)),
    "GET /lead/live.js": Operation("the overview's script", "none", {200: "text/javascript", 304: "*/*"}, (412, 416)),
    "GET /lead/style.css": Operation("the style", "none", {200: "text/css", 304: "*/*"}, (412, 416)),
    "GET /lead/icon.svg": Operation("the icon", "none", {200: "image/svg+xml"}),
}
