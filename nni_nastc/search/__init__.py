"""Architecture search with NNI's strategies."""
