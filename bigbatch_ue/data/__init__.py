"""Images in: sources, decoding, augmentation."""
