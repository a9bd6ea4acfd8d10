"""The ML backend of a project, which answers clicks and boxes: connected once, with its password."""

from __future__ import annotations

from campaign.label_studio.annotations import is_id
from campaign.label_studio.client import Client, LabelStudioError, LabelStudioUnavailable

TITLE = "Clicks"


def connect_backend(client: Client, project: int, url: str, user: str, password: str) -> int:
    """The id of the interactive ML backend at `url` of a project, connected where it is not yet.

    Label Studio looks at once whether it is there. Raises LabelStudioError where it is not, or may not be.
    """
    thing = f"ML backend {url}"
    known = client.request("GET", "api/ml/", params={"project": project}, thing=thing)
    if not isinstance(known, list) or not all(isinstance(one, dict) for one in known):
        raise LabelStudioError(thing, "a list of ML backends", type(known).__name__)
    access = {"auth_method": "BASIC_AUTH", "basic_auth_user": user, "basic_auth_pass": password}
    wanted = {"project": project, "url": url, "title": TITLE, "is_interactive": True, **access}
    # Label Studio keeps one that it could not reach: it is tried again and not doubled.
    own = next((one for one in known if one.get("title") == TITLE and is_id(one.get("id"))), None)
    try:
        if own is None:
            made = client.request("POST", "api/ml/", body=wanted, thing=thing)
        elif own.get("url") == url and own.get("is_interactive") and own.get("state") == "CO":
            return int(own["id"])
        else:
            made = client.request("PATCH", f"api/ml/{own['id']}/", body=wanted, thing=thing, repeatable=True)
    except LabelStudioUnavailable:
        raise
    except LabelStudioError as error:
        raise LabelStudioError(
            thing,
            "`campaign serve` at an address that Label Studio reaches (on its own machine only with "
            "LABEL_STUDIO_ML_BLOCK_LOCAL_IP=false and LABEL_STUDIO_SSRF_PROTECTION_ENABLED=false)",
            error.got,
        ) from None
    if not isinstance(made, dict) or not is_id(made.get("id")):
        raise LabelStudioError(thing, "the ML backend that was connected", type(made).__name__)
    return int(made["id"])
