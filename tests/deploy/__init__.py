"""The launcher, with all its processes and in parts."""
