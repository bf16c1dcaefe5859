"""What the command says and draws: summaries, curves, the table and picture of a sweep."""
