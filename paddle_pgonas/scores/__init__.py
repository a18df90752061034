"""Candidate, submission and truth files, the check of submissions, and the correlation of scores. Without Paddle."""
