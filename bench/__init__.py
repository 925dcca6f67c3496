"""How fast Lockstep is: `make bench`. One module for each figure of docs/PERFORMANCE.md; nothing imports it."""
