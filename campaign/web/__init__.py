"""The web server of a campaign: crops, webhooks, the ML backend, and the lead's page."""
