"""What every trained detector has: options, crops, the prediction pipeline, its training."""
