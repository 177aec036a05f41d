"""Tables to codes: ids, rows, files, splits, metadata. Knows no model and no fastai."""
