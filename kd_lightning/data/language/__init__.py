"""Plain text, whose hidden words are to be guessed."""
