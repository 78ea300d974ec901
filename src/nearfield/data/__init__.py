"""Arrays in and out, model files, and laws with known truth."""
