"""How fast it is, beside named alternatives, measured in one run."""
