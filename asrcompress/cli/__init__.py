"""The command line: one file per subcommand, options.py for what they share, output.py for printing."""
