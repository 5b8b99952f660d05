"""NNI's experiments: a closed server, the files that describe them, what they leave behind."""
