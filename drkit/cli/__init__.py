"""The command line: the only part of drkit that prints, sleeps or exits."""
