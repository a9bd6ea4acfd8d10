"""What can be promised of one exact set of masks: betting, nested sets, what annotators pass."""
