"""From graphs to text: statements in a target's spelling, and the records that templates place them from."""
