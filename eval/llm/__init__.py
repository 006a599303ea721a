"""LLM explanations as a baseline: explain, detect, fuzz and simulate, counted and resumable."""
