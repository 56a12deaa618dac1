"""Groups of commands that `cli.py` hangs into the program."""
