"""Whether answers can be trusted: gold, agreement, pace, and one verdict per mask out of several answers."""
