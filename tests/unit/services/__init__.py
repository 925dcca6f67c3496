"""Unit tests of services."""
