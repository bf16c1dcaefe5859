"""Text: tokenising, padding and augmentation, and a data module per task."""
