"""Things on disk: whole or not at all, made once, known by a hash of what they were made from."""
