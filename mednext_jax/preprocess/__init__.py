"""From a scan to what the network sees: clean, crop, normalise, resample."""
