"""From a scan to what the network sees: crop, normalise, resample; and `prepare` for a whole data set."""
