"""The campaign's report: one HTML page that needs no network.

`report_data(store)` gathers everything into a `ReportData` of plain values, and `render_report` makes the page of it:
a pure function. Names are loaded on first use, so importing this package costs nothing.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from campaign.report.collection import report_data as report_data
    from campaign.report.page import render_report as render_report
    from campaign.report.page import write_report as write_report
    from campaign.report.records import ReportData as ReportData

_HOMES = {
    "ReportData": "campaign.report.records",
    "render_report": "campaign.report.page",
    "report_data": "campaign.report.collection",
    "write_report": "campaign.report.page",
}
__all__ = ["ReportData", "render_report", "report_data", "write_report"]


def __getattr__(name: str) -> Any:
    from importlib import import_module

    if name in _HOMES:
        return getattr(import_module(_HOMES[name]), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
