"""Quality of bundles, as programs with recorded outputs; knows the runtime's public events only."""
