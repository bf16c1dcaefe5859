"""Questions whose answers are stretches of a text."""
