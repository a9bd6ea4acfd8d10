"""The server beside Label Studio: predictions, crops, webhooks, metrics."""
