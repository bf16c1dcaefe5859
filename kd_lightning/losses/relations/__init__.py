"""Losses on how the samples of a batch relate to one another, one file for each idea; widths may differ."""
