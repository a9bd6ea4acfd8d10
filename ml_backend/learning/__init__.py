"""What detectors learn with and are measured by, whatever their network."""
