"""Lockstep while everything around it is killed, filled up and lost: `python -m tests.chaos --seconds 600 --seed 1`.

A driver starts every process itself, lets people act through the pages and does mischief by a plan that follows from
the seed. At the end it lets everything settle, gathers what is there, and checks it (tests/chaos/checks.py).
"""
