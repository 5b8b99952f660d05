"""From stored features and annotations to batches."""
