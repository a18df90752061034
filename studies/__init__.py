"""Studies of training methods on small search spaces, with stand-alone accuracies of their own; README.md describes them."""
