"""Files in and out: NIfTI scans, nnU-Net and BIDS data sets, whole-or-not-at-all writing."""
