"""`python -m feynkac`: the command line."""

from feynkac.commands.cli import main

if __name__ == "__main__":
    main()
