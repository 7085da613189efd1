"""Array operations of the network and of resampling; they know nothing of parameters' names or of training."""
