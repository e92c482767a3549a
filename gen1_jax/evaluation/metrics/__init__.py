"""The measures of an edit, by meaning: pure functions on the host.

Each measure takes a batch of clips and returns one number per clip, `[b]` float64; NaN where it is
not defined. statistics.py has the confidence intervals of their means, and comparisons of settings.
"""
