"""The worker with real terraform."""
