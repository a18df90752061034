"""What a subnet is: the 52-digit code, the architecture that it stands for, search spaces and subspaces. Without Paddle."""
