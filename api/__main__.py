"""Run the command line: ``python -m janus_edge``."""

from janus_edge.cli.main import main

if __name__ == "__main__":
    main()
