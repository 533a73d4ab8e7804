"""``python -m janus_edge``: the command line."""

from janus_edge.cli.main import main

if __name__ == "__main__":
    main()
