"""What a model has learned, as tables and pictures; changes nothing."""
