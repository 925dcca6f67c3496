"""How Lockstep is started and kept running on one machine: the launcher behind `make run` and `make demo`."""
