"""Sentences with a tag for every word."""
