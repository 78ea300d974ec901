"""The figures of arXiv 2505.04417, run anew by `nearfield reproduce`."""
