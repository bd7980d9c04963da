"""One module for each command, loaded only when that command is asked for. See `drkit.cli.app`."""
