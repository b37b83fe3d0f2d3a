"""The learning-rate range test: the sweep, and the rules that read LR bounds from its curves."""
