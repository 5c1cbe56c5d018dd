"""`python -m feynkac`: the command line."""

import sys

if __name__ == "__main__":
    if not sys.flags.safe_path:
        del sys.path[0]  # the folder that one is in, which `-m` puts first: its files are not what is asked for
    from feynkac.commands.cli import main

    main()
