"""The multi-factor gate: codes, sessions and the temporary credentials they give."""
