"""Quality of bundles, as programs with recorded outputs. Knows the runtime's public events only."""
