"""Results as tables (rich) and figures (matplotlib): renders, computes nothing."""
