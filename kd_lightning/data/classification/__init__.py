"""Texts and pairs of texts with labels: a class, several of them, or a number."""
