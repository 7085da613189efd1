"""From prepared cases to batches: splits, patch sampling, the host pipeline, augmentation on the device."""
