"""The NAS-TC search space in NNI's primitives."""
