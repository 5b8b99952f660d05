"""Tables that compare methods, beside the paper's published numbers."""
