"""What this machine is and has, and the records of what was measured on it."""
