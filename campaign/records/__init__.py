"""The words of a campaign as types: verdicts, decisions, stages, pages, masks of the dataset."""
