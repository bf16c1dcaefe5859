"""Rows of images: decoding, the store of decoded pixels, augmentation and mixing of batches."""
