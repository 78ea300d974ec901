"""What arXiv 2505.04417 proves, in numbers: decay of the score, bounds, error budgets."""
