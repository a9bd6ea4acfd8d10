"""A whole campaign to watch: drawn images, simulated annotators, a Label Studio of its own."""
