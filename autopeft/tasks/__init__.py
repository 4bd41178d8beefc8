"""Tasks: how rows are read and encoded, how a model is scored on them."""
