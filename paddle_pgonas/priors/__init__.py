"""What is known of a subnet without training: its layers, costs and Zen-score, and the priors by name. Without Paddle."""
