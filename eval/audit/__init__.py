"""Auditing explanations that others wrote: what they claim, whether it holds, a verdict."""
