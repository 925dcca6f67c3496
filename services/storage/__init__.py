"""What Lockstep keeps: logs, blobs, and their encryption at rest."""
