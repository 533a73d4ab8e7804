"""The command line: one small file a command. Commands parse, call one function, write the file."""
