"""The figures of arXiv 2505.04417 and of its companions, run anew by `nearfield reproduce`."""
