"""The chaos suite's own checks can fail."""
