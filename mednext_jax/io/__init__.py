"""Files in and out: NIfTI scans, nnU-Net and BIDS data sets, the zarr case store, whole-or-not-at-all writing."""
