"""The steps of a round, each reading what the one before it stored, and the state machine that says which is due."""
