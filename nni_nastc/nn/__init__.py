"""The temporal operations, cells and networks in plain PyTorch."""
