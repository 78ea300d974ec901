"""The networks and the training of arXiv 2505.04417, to be compared with."""
