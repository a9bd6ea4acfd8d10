"""The campaign: store, clustering, search, policies, Label Studio sync, jobs, export and reports."""
