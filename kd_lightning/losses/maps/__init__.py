"""Losses on feature maps (B, C, H, W) of convolutional networks, one file for each idea."""
