"""The command `prepare`: a whole data set verified, resampled, normalised and split."""
