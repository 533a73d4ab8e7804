"""Run the command line: ``python -m janus_edge.cli``."""

from janus_edge.cli.main import main

main()
