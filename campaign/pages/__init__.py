"""What annotators are shown and what comes back: planning, publishing, reading, gold, audits, editing, painting."""
