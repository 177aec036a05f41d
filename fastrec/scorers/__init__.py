"""Codes to answers: the contract of whatever scores, its verbs, baselines, and what travels."""
