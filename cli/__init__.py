"""The command line: one small file per command, which parses and calls one function."""
