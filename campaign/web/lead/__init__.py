"""The lead's web page: progress, annotators, clusters, and the way to decide one otherwise."""

from campaign.web.lead.views import mount

__all__ = ["mount"]
