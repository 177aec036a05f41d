"""Answers judged: metrics, held-out rows, models side by side. Knows no fastai."""
