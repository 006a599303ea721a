"""Checks of fitted labels: held-out scores and the rewritten layer."""
